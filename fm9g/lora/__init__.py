"""Adapters: OpenDelta's LoRA on BMTrain layers. So far only the settings that later versions take."""
