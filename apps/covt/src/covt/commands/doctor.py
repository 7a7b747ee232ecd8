"""`covt doctor`: is this machine ready?"""

import sys
from collections import Counter
from typing import Annotated

import typer

from covt.error_lines import EXIT_RUNTIME
from covt.output import emit


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False) -> None:
    """Check whether this machine is ready; each fault with its remedy.

    Versions, devices, memory, disk, ports, threads, permissions and the latent plugin. Exit code 1 when a check fails.
    """
    from covt_runtime.doctor import run_checks

    checks = run_checks()
    lines = [f"{check.status:<5} {check.name:<22} {check.detail}" for check in checks]
    lines += [f"  → {check.name}: {check.remedy}" for check in checks if check.remedy]
    counts = Counter(check.status for check in checks)
    verdict = "not ready" if counts["fail"] else "ready"
    lines.append(f"{verdict}: {counts['pass']} passed, {counts['warn']} warnings, {counts['fail']} failed")
    emit([check.as_dict() for check in checks], as_json=as_json, text="\n".join(lines))
    if any(check.status == "fail" for check in checks):
        sys.exit(EXIT_RUNTIME)
