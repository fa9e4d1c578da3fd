"""llmfleet init."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmfleet.cli.options import DEFAULT_INVENTORY, Json, Quiet
from llmfleet.cli.output import counted, echo_json
from llmfleet.cli.printable import printable
from llmfleet.planner.errors import InputError, NodesError

if TYPE_CHECKING:
    from llmfleet.launch.discover.found import Found
    from llmfleet.launch.discover.merge import Merged
    from llmfleet.planner.inventory.model import Access


def init(
    hosts: Annotated[
        list[str] | None, typer.Argument(metavar="[HOST…]", help="Names, addresses or ranges: 10.0.1.[10-17].")
    ] = None,
    from_ssh_config: Annotated[
        bool, typer.Option("--from-ssh-config", help="Also every host that ssh_config names without wildcards.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The inventory.")] = DEFAULT_INVENTORY,
    merge: Annotated[bool, typer.Option("--merge", help="Take differences over into a file that is there.")] = False,
    user: Annotated[str | None, typer.Option("--user", help="SSH user; ssh_config's if left out.")] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="FILE", help="SSH key; ssh_config's if left out.")] = None,
    jump: Annotated[str | None, typer.Option("--jump", metavar="[USER@]HOST[:PORT]", help="Jump host.")] = None,
    sudo: Annotated[bool, typer.Option("--sudo", help="Commands on the machines run as root, through sudo.")] = False,
    sudo_password_env: Annotated[
        str | None, typer.Option("--sudo-password-env", metavar="NAME", help="Variable with sudo's password.")
    ] = None,
    known_hosts: Annotated[str | None, typer.Option("--known-hosts", metavar="FILE", help="Host keys.")] = None,
    python: Annotated[str, typer.Option("--python", help="Python on the machines.")] = "python3",
    cluster: Annotated[str, typer.Option("--cluster", help="Name of the fleet, in a new file.")] = "fleet",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write inventory.yaml from the machines themselves.

    Reads GPUs, links, driver, memory, disk and network over SSH; changes nothing on them. Machines alike become one
    entry with a range. Where the file is there already, shows what differs and leaves it alone without --merge.

    \b
    Examples:
      llmfleet init 10.0.0.10 '10.0.1.[10-11]' --user ops
      llmfleet init --from-ssh-config --out lab.yaml
      llmfleet init gpu-1 --user ops --sudo       everything on it is done as root
      llmfleet init 10.0.1.12 --merge      a machine more, in the inventory that is there
    """
    from llmfleet.launch.discover.ask import discover
    from llmfleet.launch.discover.hosts import machines

    _check_name(cluster)
    if sudo_password_env and not sudo:
        raise InputError("--sudo-password-env has sudo's password, and there is no --sudo")
    login = {"sudo": sudo or None, "sudo_password_env": sudo_password_env}
    access = _access(user=user, key=key, jump=jump, known_hosts=known_hosts, **login)
    asked = machines(hosts or [], access, from_ssh_config=from_ssh_config)
    found, errors = discover(asked, python=python)
    if found:
        _settle(found, out, access, merge=merge, python=python, cluster=cluster, as_json=as_json, quiet=quiet)
    if errors:
        raise errors[0] if len(asked) == 1 else NodesError("init", errors)


def _check_name(cluster: str) -> None:
    """Before all machines were asked for nothing."""
    from llmfleet.planner.inventory.shapes import NAME

    try:
        NAME.parse(cluster)
    except ValueError as error:
        raise InputError(f"--cluster: {error}") from None


def _access(**given: object) -> Access:
    from pydantic import ValidationError

    from llmfleet.planner.inventory.model import Access

    try:
        return Access.model_validate({key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise InputError(f"--{option}: {first['msg'].removeprefix('Value error, ')}") from None


def _settle(
    found: tuple[Found, ...],
    out: Path,
    access: Access,
    *,
    merge: bool,
    python: str,
    cluster: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Writes a new file; of one that is there shows what differs, and takes it over if asked to."""
    from llmfleet.launch.discover.merge import Merged, merged
    from llmfleet.launch.discover.written import inventory_text

    is_new = not out.exists()
    if is_new:
        result = Merged("", inventory_text(found, cluster=cluster, access=access, python=python))
        _checked(result.text, out)
    else:
        result = merged(_read(out), found, str(out))
    written = result.changed and (is_new or merge)
    if written:
        _write(result.text, out)
    if as_json:
        echo_json(_as_json(found, result, out, written=written))
    elif not quiet:
        typer.echo(printable(_said(found, result, out, is_new=is_new, written=written)))


def _said(found: tuple[Found, ...], result: Merged, out: Path, *, is_new: bool, written: bool) -> str:
    machines = counted(len(found), "machine")
    problems = [f"! {m.name}: {problem}" for m in found for problem in m.problems] if is_new else []
    lines = problems + [f"! {note}" for note in result.by_hand]
    if is_new:
        return "\n".join([*lines, f"{machines} in {out}. Next: fill in its `services`, then llmfleet plan {out}"])
    if not result.changed:
        return "\n".join([*lines, f"{out} agrees with {machines}."])
    end = (
        f"Taken over into {out}."
        if written
        else f"Nothing was written. llmfleet init … --merge takes it over into {out}."
    )
    return "\n".join([result.diff(str(out)), *lines, end])


def _as_json(found: tuple[Found, ...], result: Merged, out: Path, *, written: bool) -> dict[str, object]:
    keys = ("name", "host", "gpus", "link", "nic", "interface", "remarks", "problems")
    return {
        "file": str(out),
        "written": written,
        "machines": [{key: getattr(m, key) for key in keys} for m in found],
        "diff": result.diff(str(out)),
        "by_hand": list(result.by_hand),
    }


def _checked(text: str, out: Path) -> None:
    """What we write is an inventory, or our own mistake."""
    from llmfleet.planner.inventory.parse import parse

    parse(text, str(out), nodes_only=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint="Name another file: --out FILE") from None


def _write(text: str, path: Path) -> None:
    from llmfleet.launch.record.state import write_atomically

    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        write_atomically(path.resolve(), text.encode())
        path.chmod(mode)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}", hint="Name another file: --out FILE") from None
