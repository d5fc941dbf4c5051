"""systemd units that set a Jetson's clocks and verify the engine at every start of the device.

JetPack 4 has systemd 237, which knows neither ``Type=exec`` nor ``Restart=`` in a oneshot service.
Sources: systemd.service(5), systemd.exec(5); NVIDIA's unit for jetson_clocks, docs/hardware.md,
"Power modes and clocks".
"""

from __future__ import annotations

from edge_inception.bundle.serving.served_model import ServedModel
from edge_inception.hardware.jetpack import parse_version

_USER = "edge-inception"
_CLOCKS = "edge-inception-clocks.service"
_START_TIMEOUT_S = 3600  # the smallest module needs minutes to build an INT8 Inception-v4
_RESTARTS, _RESTART_PAUSE_S = 3, 10
# systemd gives up after _RESTARTS starts in this window; the window is longer than these starts
# take together, or a build that fails late would restart for ever.
_RESTART_WINDOW_S = (_RESTARTS + 1) * (_START_TIMEOUT_S + _RESTART_PAUSE_S)
# Exit codes of errors.py for wrong usage, wrong input and a missing library: a restart mends none.
_FINAL_EXIT_CODES = (2, 3, 4)


def render(served: ServedModel) -> dict[str, str]:
    """Path -> text of ``systemd/NAME.service`` and, on a Jetson, the unit that sets the clocks."""
    files = {f"systemd/{served.name}.service": _service(served)}
    if served.target.is_jetson:
        files[f"systemd/{_CLOCKS}"] = _clocks()
    return files


def usage(served: ServedModel) -> str:
    """Markdown on how to install the units, and how to run an application instead of verify."""
    groups = f" --groups {','.join(_groups(served))}" if _groups(served) else ""
    return (
        f"```\nsudo useradd --system{groups} {_USER}\n"
        f"sudo mkdir -p {served.home} && sudo cp -r . {served.home}\n"
        "sudo cp serving/systemd/*.service /etc/systemd/system/\n"
        f"sudo systemctl daemon-reload && sudo systemctl enable --now {served.name}\n```\n"
        "The first start builds the engine, which takes minutes. The unit then replays the golden "
        "inputs; to run an application instead, `sudo systemctl edit` it and set `ExecStart=`.\n"
    )


def _groups(served: ServedModel) -> tuple[str, ...]:
    """Groups that own the GPU's device files; JetPack 4 (Ubuntu 18.04) has no group ``render``."""
    if not served.target.is_jetson:
        return ()
    return ("video", "render") if parse_version(served.target.jetpack[0]) >= (5,) else ("video",)


def _clocks() -> str:
    return """\
[Unit]
Description=Clocks at the maximum of the power mode
After=nvpmodel.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/jetson_clocks

[Install]
WantedBy=multi-user.target
"""


def _service(served: ServedModel) -> str:
    clocks = (
        f"Wants={_CLOCKS}\nAfter=nvpmodel.service {_CLOCKS}\n" if served.target.is_jetson else ""
    )
    groups = _groups(served)
    supplementary = f"SupplementaryGroups={' '.join(groups)}\n" if groups else ""
    python = "/usr/bin/python3 device.py"
    return f"""\
[Unit]
Description=edge-inception {served.name}
{clocks}StartLimitIntervalSec={_RESTART_WINDOW_S}
StartLimitBurst={_RESTARTS}

[Service]
Type=simple
RemainAfterExit=yes
User={_USER}
{supplementary}WorkingDirectory={served.home}
Environment=PYTHONDONTWRITEBYTECODE=1
# As root: the bundle belongs to root, and only the engine's folder to the user.
ExecStartPre=+/usr/bin/install -d -o {_USER} {served.home}/engine
ExecStartPre={python} check
ExecStartPre={python} build
ExecStart={python} verify
TimeoutStartSec={_START_TIMEOUT_S}
Restart=on-failure
RestartSec={_RESTART_PAUSE_S}
RestartPreventExitStatus={" ".join(map(str, _FINAL_EXIT_CODES))}
NoNewPrivileges=yes
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""
