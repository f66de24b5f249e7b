"""From YAML and a command line to checked, frozen specs, or to every problem they have at once. Nothing here touches
anything but the YAML files it reads."""
