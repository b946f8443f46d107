"""Set a federation up on real hosts: certificates, node keys, prepared data, the run."""

import math
from pathlib import Path
from typing import Annotated

import typer

from nescient_fl.cli import command_group, run_command


def authority(
    out: Annotated[Path, typer.Option(help="New folder for the authority's key and certificate.")],
    name: Annotated[str, typer.Option(help="What the certificate calls it.")] = "nescient federation",
) -> None:
    """Make the certificate authority that the members trust for the coordinator's link."""
    from nescient_fl.deployment.certificates import create_authority

    print(f"certificate, to be sent to every member: {create_authority(out, name)}")


def certificate(
    authority: Annotated[Path, typer.Argument(help="Folder of the certificate authority.")],
    host: Annotated[list[str], typer.Option(help="Name or address that members reach the link by; may be repeated.")],
    out: Annotated[Path, typer.Option(help="New folder for the link's key and certificate.")],
    days: Annotated[int, typer.Option(min=1, max=36500, help="How long it counts.")] = 365,
) -> None:
    """Issue the coordinator's certificate."""
    from nescient_fl.deployment.certificates import issue_server_certificate

    made = issue_server_certificate(authority, host, out, days)
    print(f"certificate: {made.certificate}\nkey, never to be sent: {made.key}\nauthority: {made.authority}")


def node(
    keys: Annotated[Path, typer.Argument(help="The member's folder of keys, as `nescient roster keys` made it.")],
    out: Annotated[Path, typer.Option(help="File for the node's private key; it must not be there yet.")],
) -> None:
    """Make a member's node key, and the node file to send to the coordinator."""
    from nescient_fl.deployment.node_keys import bind, create_node_key, write_binding
    from nescient_fl.errors import UserError
    from nescient_fl.mpc.errors import MpcError
    from nescient_fl.mpc.keys import load_keys

    try:
        own = load_keys(keys)
    except MpcError as error:
        raise UserError(str(error)) from None
    public = out.with_name(f"{own.name}.node.json")
    write_binding(bind(own.name, own.role, create_node_key(out), own), public)
    print(f"node key, never to be sent: {out}\nnode file, to be sent to the coordinator: {public}")


def data(
    name: Annotated[str, typer.Argument(help="The hospital's name in the roster.")],
    data: Annotated[list[str], typer.Option(help="Dataset folder; may be repeated.")],
    out: Annotated[Path, typer.Option(help="New folder for the prepared data; it stays on this host.")],
    source: Annotated[list[str] | None, typer.Option(help="What the folder holds: chexpert or nih.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of the study's options, the same at every hospital.")
    ] = None,
) -> None:
    """Select, decode and divide a hospital's radiographs, on its own host."""
    from nescient_fl.deployment.founding import prepare_site
    from nescient_fl.study.settings import make_settings, read_config_file

    options = read_config_file(config) if config else {}
    counts = prepare_site(name, make_settings({"data": data, "source": source or []}, options), out)
    print(f"{out}: " + ", ".join(f"{counts[split]} {split}" for split in ("train", "validation", "test")))


def run(
    roster: Annotated[Path, typer.Argument(help="The signed roster.")],
    authority: Annotated[str, typer.Option(help="Whom you trust: its member file, or its public key in hex.")],
    largest_site: Annotated[int, typer.Option(help="Most training radiographs that any hospital has.")],
    out: Annotated[Path | None, typer.Option(help="The run folder to write. [dim](a new one below runs/)[/]")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of the study's options, the same at every hospital.")
    ] = None,
) -> None:
    """Write the run folder that the coordinator begins with."""
    from nescient_fl.deployment.founding import found_run, noise_of
    from nescient_fl.errors import UserError
    from nescient_fl.mpc.ceremony import authority_key
    from nescient_fl.mpc.errors import MpcError
    from nescient_fl.study.settings import read_config_file

    try:
        trusted = authority_key(authority)
    except MpcError as error:
        raise UserError(str(error)) from None
    made = found_run(out, roster, trusted, largest_site, read_config_file(config) if config else {})
    print(f"run folder: {made.path}")
    if noise := noise_of(made):
        # Rounded down: who asks for a little more than there is takes no part.
        print(f"each hospital insists on it by its site.toml: noise-multiplier = {math.floor(noise * 1e4) / 1e4}")


federation = command_group(
    "Set a federation up on real hosts: certificates, node keys, prepared data, the run.",
    [authority, certificate, node, data, run],
)

if __name__ == "__main__":
    run_command(federation)
