"""Renders LV2 plug-ins: one fresh instance for each render, in blocks of one length.

``deactivate`` and ``activate`` do not clear most plug-ins, so each render makes an
instance of its own (6 to 50 us for MDA; one idle instance keeps the library loaded).
Plug-ins that read memory they never wrote find zeros there, because worker processes
are started with an allocator that clears what it gives (`styletransfer.hosts.process`).
Latency that a plug-in reports is taken away.
"""

import ctypes as c
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from styletransfer.hosts.description import Slot
from styletransfer.hosts.interface import (
    Interface,
    check_interface,
    default_values,
    held_values,
)
from styletransfer.hosts.lilv import ATOM, LOCK, lilv
from styletransfer.hosts.lv2_features import (
    BLOCK_LENGTH,
    WORK,
    Scheduler,
    features,
    number_of,
)
from styletransfer.hosts.lv2_ports import (
    Ports,
    installed_plugin,
    read_interface,
    read_ports,
)
from styletransfer.hosts.routing import Stage, StagedSegment, seed_chance

# lilv unloads a library with its last instance, and plug-ins may not like that.
THREAD_SAFE = False
# The MDA plug-ins set their coefficients for 44.1 kHz when they are made and again for
# each control that changes, so one that stays at its default keeps the wrong rate.
_SET_ON_CHANGE = "http://drobilla.net/plugins/mda/"
_ATOM_BYTES = 1 << 14


class _Descriptor(c.Structure):
    _fields_ = [
        ("uri", c.c_char_p),
        ("instantiate", c.c_void_p),
        ("connect_port", c.CFUNCTYPE(None, c.c_void_p, c.c_uint32, c.c_void_p)),
        ("activate", c.CFUNCTYPE(None, c.c_void_p)),
        ("run", c.CFUNCTYPE(None, c.c_void_p, c.c_uint32)),
        ("deactivate", c.CFUNCTYPE(None, c.c_void_p)),
        ("cleanup", c.c_void_p),
        ("extension_data", c.CFUNCTYPE(c.c_void_p, c.c_char_p)),
    ]


class _Instance(c.Structure):
    _fields_ = [
        ("descriptor", c.POINTER(_Descriptor)),
        ("handle", c.c_void_p),
        ("own", c.c_void_p),
    ]


def open_segment(slots: Sequence[Slot], sample_rate: int | float) -> StagedSegment:
    """Opens adjacent LV2 plug-ins; makes an instance of each.

    Args:
      slots: of kind ``"lv2"``, in order.
      sample_rate: Hz.

    Raises:
      PluginError: not installed, needs what this host lacks, or has changed.
    """
    return StagedSegment([_stage(slot, sample_rate) for slot in slots])


def _stage(slot: Slot, sample_rate: int | float) -> Stage:
    plugin = Lv2Plugin(slot.plugin, sample_rate)
    ports = plugin.ports
    check_interface(slot, read_interface(slot.plugin, ports))
    held = held_values(slot, [control.spec for control in ports.controls])
    inputs, outputs = len(ports.audio_in), len(ports.audio_out)
    return Stage(
        inputs, outputs, held, lambda x, v: plugin.run(x, plugin.port_values(v))
    )


def describe(uri: str, sample_rate: int | float = 44100) -> Interface:
    """Reads and runs a plug-in once, to tell its parameters, channels and latency.

    Raises:
      PluginError: see `open_segment`.
    """
    plugin = Lv2Plugin(uri, sample_rate)
    plugin.run(np.zeros((len(plugin.ports.audio_in), 64), np.float32), plugin.defaults)
    table = read_interface(uri, plugin.ports).to_dict()
    return Interface.from_dict({**table, "latency_samples": plugin.latency})


class Lv2Plugin:
    """A plug-in at a sample rate.

    Args:
      uri: of an installed plug-in.
      sample_rate: Hz.

    Attributes:
      ports: what goes where.
      defaults: a value for each port.
      latency: samples that the last run reported.
    """

    def __init__(self, uri: str, sample_rate: int | float):
        with LOCK:
            self._open(uri, float(sample_rate))

    def _open(self, uri: str, sample_rate: float) -> None:
        self._uri = uri
        self._rate = sample_rate
        self._plugin = installed_plugin(uri)
        self.ports: Ports = read_ports(uri)
        self.latency = 0
        self._nudge = uri.startswith(_SET_ON_CHANGE)
        values = np.zeros(self.ports.count, np.float32)
        for index, value in self.ports.held:
            values[index] = value
        self.defaults = values
        self.defaults = self.port_values(
            default_values(control.spec for control in self.ports.controls)
        )
        # Stays until the process ends, and the library with it.
        self._keeper = _Running(self)

    @property
    def native(self) -> Any:
        """Lilv's plug-in."""
        return self._plugin

    @property
    def instance(self) -> Any:
        """Lilv's idle instance."""
        return self._keeper.instance

    def port_values(self, settings: Mapping[str, Any]) -> np.ndarray:
        """Values of all ports [ports] for physical values by name."""
        values = self.defaults.copy()
        for control in self.ports.controls:
            value = settings[control.spec.name]
            values[control.index] = control.port_value(value, self._rate)
        return values

    def run(self, audio: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Renders audio [inputs, time] with a fresh instance, without its latency."""
        seed_chance()
        with LOCK:
            running = _Running(self)
        try:
            running.prepare(values, self._nudge)
            output = running.process(audio)
            self.latency = running.latency()
            if self.latency > 0:
                rest = np.zeros((len(audio), self.latency), np.float32)
                output = np.concatenate([output, running.process(rest)], axis=1)
                output = output[:, self.latency :]
        finally:
            with LOCK:
                running.free()
        return output

    def instantiate(self, scheduler: Scheduler) -> Any:
        """An instance and what must be held as long as it lives.

        Raises:
          RuntimeError: the plug-in refuses.
        """
        array, held = features(self._rate, scheduler)
        instance = lilv().plugin_instantiate(self._plugin, self._rate, array)
        if not instance:
            raise RuntimeError(
                f"LV2 plug-in {self._uri} cannot be instantiated at {self._rate:g} Hz"
            )
        return instance, (array, held)


class _Running:
    """One instance, from its making to its end."""

    def __init__(self, plugin: Lv2Plugin):
        self._ports = plugin.ports
        self._scheduler = Scheduler()
        self.instance, self._held = plugin.instantiate(self._scheduler)
        record = c.cast(self.instance, c.POINTER(_Instance)).contents
        self._do: Any = record.descriptor.contents
        self._handle = record.handle
        self._active = False
        extension = None
        if self._do.extension_data:
            extension = self._do.extension_data(f"{WORK}interface".encode())
        self._scheduler.connect(self._handle, extension)
        ports = self._ports
        # Values of all control ports, and a block of silence for what is not connected.
        self._values = plugin.defaults.copy()
        self._silence = np.zeros(BLOCK_LENGTH, np.float32)
        self._waste = np.zeros(BLOCK_LENGTH, np.float32)
        self._atoms = {
            index: np.zeros(_ATOM_BYTES // 4, np.uint32)
            for index in (*ports.atoms_in, *ports.atoms_out)
        }
        connect: Callable[..., None] = self._do.connect_port
        addressed = [control.index for control in ports.controls]
        addressed += [index for index, _ in (*ports.held, *ports.meters)]
        for index in addressed:
            address = self._values.ctypes.data + 4 * index
            connect(self._handle, index, address)
        for index, buffer in self._atoms.items():
            connect(self._handle, index, buffer.ctypes.data)
        for index in ports.silent_in:
            connect(self._handle, index, self._silence.ctypes.data)
        for index in ports.ignored_out:
            connect(self._handle, index, self._waste.ctypes.data)

    def prepare(self, values: np.ndarray, nudge: bool) -> None:
        """Activates it and sets its controls."""
        if self._do.activate:
            self._do.activate(self._handle)
        self._active = True
        if nudge:
            self._values[:] = values
            for control in self._ports.controls:
                index = control.index
                self._values[index] += 0.125 if values[index] < 0.5 else -0.125
            self._block(self._empty(self._ports.audio_in), 0, 0, [])
        self._values[:] = values

    def process(self, audio: np.ndarray) -> np.ndarray:
        """Goes on with audio [inputs, time]."""
        audio = np.ascontiguousarray(audio, np.float32)
        output = np.zeros((len(self._ports.audio_out), audio.shape[1]), np.float32)
        for start in range(0, audio.shape[1], BLOCK_LENGTH):
            length = min(BLOCK_LENGTH, audio.shape[1] - start)
            self._block(audio, start, length, output)
        return output

    def latency(self) -> int:
        """Samples that it reports now."""
        index = self._ports.latency
        value = 0.0 if index is None else float(self._values[index])
        return round(value) if 0 < value < 1e7 else 0

    def free(self) -> None:
        """Ends it."""
        if self._active and self._do.deactivate:
            self._do.deactivate(self._handle)
        lilv().instance_free(self.instance)

    def _empty(self, ports: Sequence[int]) -> np.ndarray:
        return np.zeros((len(ports), 1), np.float32)

    def _block(self, audio: np.ndarray, start: int, length: int, output: Any) -> None:
        made = output if len(output) else self._empty(self._ports.audio_out)
        for rows, indices in (
            (audio, self._ports.audio_in),
            (made, self._ports.audio_out),
        ):
            for row, index in zip(rows, indices, strict=True):
                address = row.ctypes.data + 4 * start
                self._do.connect_port(self._handle, index, address)
        for index in self._ports.atoms_in:  # an empty sequence
            head = (8, number_of(f"{ATOM}Sequence"), 0, 0)
            self._atoms[index][:4] = head
        for index in self._ports.atoms_out:  # room for one
            buffer = self._atoms[index]
            buffer[:2] = (buffer.nbytes - 8, number_of(f"{ATOM}Chunk"))
        self._do.run(self._handle, length)
        self._scheduler.deliver()
