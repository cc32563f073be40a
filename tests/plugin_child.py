"""Renders with a plug-in directly, in a process of its own: what hosts must equal.

    python tests/plugin_child.py QUESTION.json ANSWER.npz

LV2 by `styletransfer.hosts.lv2.Lv2Plugin` without engine or pool; VST3 by pedalboard
alone as its documentation has it, an instance loaded for every render.
"""

import json
import sys

import numpy as np


def main() -> None:
    """Reads kind, plugin, rate, fresh, settings by name, audio; writes audio."""
    with open(sys.argv[1], encoding="utf-8") as file:
        question = json.load(file)
    audio = np.array(question["audio"], np.float32)
    rate = question["rate"]
    if question["kind"] == "lv2":
        from styletransfer.hosts.lv2 import Lv2Plugin

        plugin = Lv2Plugin(question["plugin"], rate)
        defaults = {
            control.spec.name: control.spec.choices[int(control.spec.default)]
            if control.spec.choices
            else control.spec.default
            for control in plugin.ports.controls
        }
        made = [
            plugin.run(audio, plugin.port_values(defaults | values))
            for values in question["settings"]
        ]
    else:
        import pedalboard

        made = []
        for raws in question["settings"]:
            plugin = pedalboard.load_plugin(question["plugin"])
            # Noise, by which pedalboard finds out whether a reset clears a plug-in,
            # stays in one for which it got that wrong.
            while question["fresh"] and "Persists" not in str(plugin._reload_type):
                plugin = pedalboard.load_plugin(question["plugin"])
            for name, raw in raws.items():
                plugin.parameters[name].raw_value = raw
            made.append(plugin.process(audio, rate, reset=not question["fresh"]))
    np.savez(sys.argv[2], audio=np.stack(made))


if __name__ == "__main__":
    main()
