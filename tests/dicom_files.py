"""Real DICOM files, written by pydicom, each with a patient whom no message may name."""

from io import BytesIO

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

PATIENT = "Nobody^Important"
EXPLICIT, IMPLICIT = ExplicitVRLittleEndian, ImplicitVRLittleEndian


def dicom_bytes(pixels: np.ndarray, bits=None, *, syntax=EXPLICIT, encoded=None, **tags) -> bytes:
    """A file of `pixels`, uint8 [H, W, 3] or integers [H, W] of which `bits` are used.

    `encoded` are the pixels as `syntax` compresses them; a tag of None is left out.
    """
    bits = bits or 8 * pixels.itemsize
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax
    file.SOPClassUID, file.SOPInstanceUID = CTImageStorage, "1.2.3.4"
    file.PatientName = file.PatientID = PATIENT
    grey = pixels.ndim == 2
    values = {
        "Rows": pixels.shape[0], "Columns": pixels.shape[1], "SamplesPerPixel": 1 if grey else 3,
        "PhotometricInterpretation": "MONOCHROME2" if grey else "RGB",
        "PlanarConfiguration": None if grey else 0,
        "BitsAllocated": 8 * pixels.itemsize, "BitsStored": bits, "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    } | tags  # fmt: skip
    for name, value in values.items():
        if value is not None:
            setattr(file, name, value)
    file.PixelData = pixels.tobytes() if encoded is None else encapsulate([encoded])
    file["PixelData"].VR = "OB" if encoded is not None or pixels.itemsize == 1 else "OW"
    file["PixelData"].is_undefined_length = encoded is not None
    stream = BytesIO()
    file.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
