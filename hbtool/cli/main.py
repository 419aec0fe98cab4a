"""`hbtool`: a group of commands that load only when they are called."""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import Any

import click

from hbtool import __version__
from hbtool.cli.vendor_lines import TOOLS, translate
from hbtool.errors import HbError

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("hbtool.cli.init", "Write a commented config.yaml for a model."),
    "checker": ("hbtool.cli.checker", "Say where every node would run, and why, without calibrating."),
    "calib": ("hbtool.cli.calib", "Calibrate a PyTorch model as training.yaml says."),
    "qat": ("hbtool.cli.qat", "Train a PyTorch model with fake quantizers."),
    "convert": ("hbtool.cli.convert", "Convert a calibrated or trained PyTorch model to fixed point, and compile it."),
    "export-onnx": ("hbtool.cli.export_onnx", "Write the ONNX file of one stage of a PyTorch model."),
    "makertbin": ("hbtool.cli.makertbin", "Calibrate, quantize and compile a model as config.yaml says."),
    "verify": ("hbtool.cli.verify", "Prove that every executor of an artifact gives the same bits."),
    "infer": ("hbtool.cli.infer", "Run an artifact on files, or dump every layer of a stage file."),
    "perf": ("hbtool.cli.perf", "Report what an artifact costs on the machine, segment by segment."),
    "info": ("hbtool.cli.info", "Print what an artifact was built from, takes and gives."),
    "modify": ("hbtool.cli.modify", "List or remove head and tail nodes of an artifact."),
    "pack": ("hbtool.cli.pack", "Put several artifacts into one file."),
    "vec-diff": ("hbtool.cli.vec_diff", "Compare two folders of layer outputs that infer wrote."),
    "debug": ("hbtool.cli.debug", "Find the nodes that cost a quantized model its accuracy."),
    "lint": ("hbtool.cli.lint", "Look for the usual mistakes in calibration data and preprocessing."),
    "tune": ("hbtool.cli.tune", "Find the smallest changes that reach an accuracy, with their price."),
    "doctor": ("hbtool.cli.doctor", "Say whether this computer is fit for hbtool, and try the whole road."),
    "explain": ("hbtool.cli.explain", "Say what a key of config.yaml means."),
    "ops": ("hbtool.cli.ops", "List what the BPU of a march takes."),
}
"""Command -> module that defines `command`, and the line `hbtool --help` shows without loading it."""


class LazyGroup(click.Group):
    """Lists all commands, imports the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All command names, in the order of the road."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Unknown commands get the nearest names."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], (*COMMANDS, *TOOLS), 2, 0.4)
            guess = f" Did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"there is no command {args[0]!r}.{guess}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", prog_name="hbtool")
def cli() -> None:
    """From a trained network to an integer program for an edge accelerator (BPU) and its CPU cores.

    hbtool models the BPU by an open, documented machine; its artifacts are not the vendor's binaries.

    Lines of hb_mapper work with hbtool instead (hbtool makertbin -c config.yaml --model-type onnx), and so do those of
    the tools beside it: hbtool hb_perf model.bin, hbtool hb_model_info model.bin, ...

    Exit codes: 0 ok, 1 the model or data, 2 usage or configuration, 3 a bug in hbtool.
    """


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with the code of what happened."""
    sys.exit(run(argv))


def run(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments, remarks = translate(sys.argv[1:] if argv is None else argv)
    for remark in remarks:
        click.echo(f"note: {remark}", err=True)
    try:
        result: Any = cli.main(args=arguments, prog_name="hbtool", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Abort:
        click.echo("hbtool: interrupted; nothing half-written was left behind", err=True)
        return 130
    except KeyboardInterrupt:
        click.echo("hbtool: interrupted; nothing half-written was left behind", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return 2
    except HbError as error:
        click.echo(f"hbtool: {error.kind} error: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:
        return 141  # as if SIGPIPE had ended it: whoever read the output went away, perhaps before the work was done
    except Exception:
        traceback.print_exc()
        click.echo(
            f"hbtool {__version__}: this is a bug in hbtool, not in your model. Please report the lines above.",
            err=True,
        )
        return 3


if __name__ == "__main__":
    main()
