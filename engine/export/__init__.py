"""A run, handed over to other programs: as tables, for FiftyOne, Label Studio and Hugging Face, as folders of images.

    engine.export.write.write(material, format, out)

`material` is what of a run is handed over, read once (`material.Material`); `out` a file or a folder that is not there
yet. It is written under a temporary name beside its place and renamed once it is whole, so that whatever happens, what
stands at `out` is complete. Nothing here loads torch, and no format needs the library that reads it.
"""
