"""The seed document's hybrid model: some operators stay in float on the CPU, the rest goes through the mapper.

Run it in this folder with `python -m hbtool.compat hybrid.py [folder]`, then
`hbtool makertbin -c hybrid.yaml --model-type onnx`. Repaired against the listing, which cannot run as
printed: forward starts with `x = self.selu(input)` (it read x before assigning it), and the layers are `ConvReLU`,
which the listing defines and hybrid_dict's "layer1.conv" fits, instead of `ConvBNReLU`, which it does not define.
"""

import sys
from pathlib import Path

import torch
from horizon_plugin_pytorch.march import March, set_march
from horizon_plugin_pytorch.nn import qat  # noqa: F401 - the listing imports it
from horizon_plugin_pytorch.quantization import (
    convert_fx,
    get_default_calib_qconfig,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    prepare_qat_fx,
)
from horizon_plugin_pytorch.utils.onnx_helper import export_to_onnx
from torch import nn
from torch.quantization import DeQuantStub

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "model_output")


class ConvReLU(nn.Sequential):
    def __init__(self, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.relu = torch.nn.ReLU()

    def forward(self, x):
        x = self.conv(x)
        x = self.relu(x)
        return x


class _SeluModule(nn.Module):
    def forward(self, input):
        return torch.nn.functional.selu(input)


class HybridModel(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.layer0 = ConvReLU()
        self.layer1 = ConvReLU()
        self.layer2 = ConvReLU()
        self.selu = _SeluModule()
        self.conv0 = nn.Conv2d(channels, channels, 1)
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.dequant = DeQuantStub()

    def forward(self, input):
        x = self.selu(input)
        x = self.layer0(x)
        x = self.selu(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.conv0(x)
        x = self.conv1(x)
        x = self.selu(x)
        return self.dequant(x)


HYBRID_DICT = {
    "module_name": ["layer1.conv", "conv0"],
    "module_type": [_SeluModule],
}

data_shape = [1, 3, 224, 224]
data = torch.rand(size=data_shape)
model = HybridModel()
float_res = model(data)

set_march(March.BAYES)
calibration_model = prepare_qat_fx(
    model,
    {
        "": get_default_calib_qconfig(),
    },
    hybrid=True,
    hybrid_dict=HYBRID_DICT,
)
calibration_model.eval()
for _ in range(5):
    calibration_model(torch.rand(size=data_shape))

qat_model = prepare_qat_fx(
    calibration_model,
    {
        "": get_default_qat_qconfig(),
        "module_name": [("conv1", get_default_qat_out_qconfig())],
    },
    hybrid=True,
    hybrid_dict=HYBRID_DICT,
)
qat_res = qat_model(data)
export_to_onnx(qat_model, data, str(FOLDER / "qat.onnx"), enable_onnx_checker=True, operator_export_type=None)

quantize_model = convert_fx(qat_model)
quantize_res = quantize_model(data)
