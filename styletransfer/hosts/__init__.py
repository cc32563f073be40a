"""Black-box effects: descriptions, render workers and the probe.

    effect = load_effect("channel_strip")             # styletransfer.presets
    with open_host(effect, 24000) as host:
        audio, status = host.render(audio, controls)

Nothing here imports JAX, and importing the package loads no plug-in.
"""

from styletransfer.hosts.description import HostEffect, Slot
from styletransfer.hosts.host import Host
from styletransfer.hosts.open import open_host
from styletransfer.hosts.request import Rendered, Status

__all__ = ["Host", "HostEffect", "Rendered", "Slot", "Status", "open_host"]
