"""A report for machines: the vendor's field names for each segment and the total, hbtool's own numbers beside them.

A megabyte is 10^6 bytes. "Effective" operations leave out padding and recomputation. A frame is one image: with a
batch, a run has several.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hbtool.perf.critical import RESOURCE_NAMES
from hbtool.perf.cuts import CpuPart
from hbtool.perf.facts import TensorFact
from hbtool.perf.layers import LayerCost
from hbtool.perf.report import Report, SegmentReport

MEGA = 1e6


def report_json(report: Report) -> dict[str, Any]:
    """The whole report: one object per segment, the totals, CPU parts and warnings."""
    return {
        "model": report.model.name,
        "summary": _total(report),
        "segments": [segment_json(report, s) for s in report.segments],
        "cpu": [_cpu(part) for part in report.cpu],
        "warnings": list(report.warnings),
    }


def segment_json(report: Report, segment: SegmentReport) -> dict[str, Any]:
    """One BPU segment, as written into its own file."""
    line, curves = segment.line, segment.curves
    summary = _costs(
        report,
        segment.latency_us,
        segment.ops,
        line.loaded_bytes,
        line.stored_bytes,
        segment.program.cores,
        segment.program.options,
    )
    summary |= {
        "input features": _features(segment.inputs),
        "output features": _features(segment.outputs),
        "interval number": curves.number,
        "interval time (ms)": curves.interval_us / 1e3,
        "interval computing unit utilization": _rounded(curves.utilisation, 1.0),
        "interval computing units utilization": _rounded(curves.utilisation, 1.0),
        "interval loading bandwidth (megabytes/s)": _rounded(curves.load_bytes_per_second, MEGA),
        "interval storing bandwidth (megabytes/s)": _rounded(curves.store_bytes_per_second, MEGA),
        "latency (ms) by segments": [us / 1e3 for us in line.call_us],
        "layer details": layer_table(segment, report.model.debug),
    }
    return {
        "name": segment.name,
        "summary": summary,
        "hbtool": {
            "machine": "hbtool's documented model of the BPU, not the vendor's compiler",
            "computing unit utilization": segment.utilisation,
            "executed OPs per run": segment.executed_ops,
            "on-chip peak (bytes)": segment.program.onchip_peak_bytes,
            "on-chip memory (bytes)": segment.program.onchip_bytes,
            "weights (bytes)": segment.weights_bytes,
            "spill (bytes)": segment.spill_bytes,
            "instructions": len(segment.program.instructions),
            "latency by resource (us)": {RESOURCE_NAMES[r]: us for r, us in segment.resources_us.items()},
            "layers": [_layer(layer) for layer in segment.layers] if report.model.debug else [],
        },
    }


def layer_table(segment: SegmentReport, debug: bool) -> list[list[str]]:
    """`layer details`: a row of column names, then one row per layer (none without debug)."""
    header = ["layer", "ops", "computing cost (no DDR)", "load/store cost", "active period of time"]
    rows = [
        [
            layer.name,
            f"{layer.ops:,}",
            cost_text(layer.compute_us, segment.latency_us),
            cost_text(layer.load_us + layer.store_us, segment.latency_us),
            period_text(layer),
        ]
        for layer in (segment.layers if debug else ())
    ]
    return [header, *rows]


def cost_text(us: float, whole_us: float) -> str:
    """`29 us (0.3% of model)`."""
    share = 100 * us / whole_us if whole_us else 0.0
    shown = f"{us:.0f}" if us >= 10 else f"{us:.2g}" if us else "0"
    return f"{shown} us ({share:.1f}% of model)"


def period_text(layer: LayerCost) -> str:
    """`12.3 ~ 45.6 us`, or `--` for a layer without instructions."""
    if layer.start_us is None or layer.end_us is None:
        return "--"
    return f"{layer.start_us:.1f} ~ {layer.end_us:.1f} us"


def _total(report: Report) -> dict[str, Any]:
    cores = max((s.program.cores for s in report.segments), default=0)
    options = next((s.program.options for s in report.segments), "")
    return _costs(report, report.latency_us, report.ops, report.loaded_bytes, report.stored_bytes, cores, options) | {
        "input features": _features(report.model.inputs),
        "output features": _features(report.model.outputs),
        "latency (ms) by segments": [s.latency_us / 1e3 for s in report.segments],
        "computing unit utilization": report.utilisation,
        "on-chip peak (bytes)": report.onchip_peak_bytes,
        "on-chip memory (bytes)": report.onchip_bytes,
        "weights (bytes)": report.weights_bytes,
        "CPU parts": len(report.cpu),
        "CPU cuts": len(report.cuts),
        "CPU estimate for the board (us)": report.cpu_estimate_us,
        "CPU task estimate for the board (us)": list(report.cores.task_us),
        "CPU time measured on this PC (us)": report.cpu_host_us,
    }


def _costs(
    report: Report, latency_us: float, ops: int, loaded_bytes: int, stored_bytes: int, cores: int, options: str
) -> dict[str, Any]:
    """The fields that segments and the total share."""
    frames = report.model.frames_per_run
    ddr_bytes = loaded_bytes + stored_bytes
    runs_per_second = 1e6 / latency_us if latency_us else 0.0
    return {
        "BPU OPs per frame (effective)": ops / frames,
        "BPU OPs per run (effective)": ops,
        "BPU PE number": report.target.macs_per_cycle * cores,
        "BPU core number": cores,
        "BPU march": report.target.march,
        "DDR bytes per frame": ddr_bytes / frames,
        "DDR bytes per run": ddr_bytes,
        "DDR bytes per second": ddr_bytes * runs_per_second,
        "DDR megabytes per frame": ddr_bytes / frames / MEGA,
        "DDR megabytes per run": ddr_bytes / MEGA,
        "DDR megabytes per second": ddr_bytes * runs_per_second / MEGA,
        "FPS": runs_per_second * frames,
        "HBDK version": f"none ({report.model.tool})",
        "compiling options": options,
        "frame per run": frames,
        "frame per second": runs_per_second * frames,
        "latency (ms)": latency_us / 1e3,
        "latency (us)": latency_us,
        "loaded bytes per frame": loaded_bytes / frames,
        "loaded bytes per run": loaded_bytes,
        "stored bytes per frame": stored_bytes / frames,
        "stored bytes per run": stored_bytes,
    }


def _features(tensors: tuple[TensorFact, ...]) -> list[list[Any]]:
    return [["name", "size"], *([t.name, t.text] for t in tensors)]


def _rounded(values: tuple[float, ...], unit: float) -> list[float]:
    return [round(v / unit, 6) for v in values]


def _layer(layer: LayerCost) -> dict[str, Any]:
    return asdict(layer)


def _cpu(part: CpuPart) -> dict[str, Any]:
    return {
        "name": part.name,
        "role": part.role,
        "cost (us, estimate)": part.cost_us,
        "node estimate for the board (us)": part.estimate_us,
        "time measured on this PC (us)": part.host_us,
        "not measured because": part.host_note,
        "bytes read and written": part.moved_bytes,
        "of these by Quantize and Dequantize (bytes)": part.quantize_bytes,
        "DDR bytes of the cut": part.ddr_bytes,
        "DDR time of the cut (us)": part.ddr_us,
        "launch of the cut (us)": part.launch_us,
        "keys": list(part.keys),
        "nodes without a key": part.stuck,
        "nodes": [
            {
                "name": n.node.name,
                "type": n.node.type,
                "reason": n.node.reason,
                "bytes": n.node.bytes,
                "estimate (us)": n.estimate_us,
                "key": n.key,
                "advice": n.advice,
            }
            for n in part.nodes
        ],
    }
