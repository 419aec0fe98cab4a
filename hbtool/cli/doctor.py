"""`hbtool doctor`."""

from __future__ import annotations

import click

from hbtool.cli.console import print_json, print_result


@click.command("doctor")
@click.option("--no-self-test", is_flag=True, help="Only look; do not build and run a small model.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(no_self_test: bool, as_json: bool) -> int:
    """Say whether this computer is fit for hbtool, and try the whole road on a small model.

    Exit code 1 where something failed.
    """
    from hbtool.flows.doctor import doctor

    result = doctor(self_test=not no_self_test)
    if as_json:
        findings = [
            {"topic": f.topic, "status": f.status, "text": f.text, "hint": f.hint, "facts": dict(f.facts or {})}
            for f in result.findings
        ]
        print_json({"passed": result.passed, "findings": findings})
        return 0 if result.passed else 1
    width = max(len(f.topic) for f in result.findings)
    for f in result.findings:
        print_result(f"{f.status:6}  {f.topic.ljust(width)}  {f.text}")
        if f.hint:
            print_result(f"{'':8}{'':{width}}  -> {f.hint}")
    print_result("\nEverything works." if result.passed else "\nSomething failed; see the lines above.")
    return 0 if result.passed else 1
