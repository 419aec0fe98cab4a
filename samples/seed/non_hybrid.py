"""The seed document's model that runs on the BPU alone: calibration, QAT, fixed point, compile.

Run it with `python -m hbtool.compat samples/seed/non_hybrid.py [folder]`. Only the line breaks and indentation that the
listing lost were restored; files go into `folder` instead of the working directory.
"""

import sys
from pathlib import Path

import torch
from horizon_plugin_pytorch.march import March, set_march
from horizon_plugin_pytorch.quantization import (
    check_model,
    compile_model,
    convert_fx,
    get_default_calib_qconfig,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    prepare_qat_fx,
)
from horizon_plugin_pytorch.utils.onnx_helper import export_to_onnx
from torch import nn
from torch.quantization import DeQuantStub, QuantStub

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "model_output")


class ConvBNReLU(nn.Sequential):
    def __init__(self, channels=3):
        super().__init__(
            nn.Conv2d(channels, channels, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )


class ConvBNAddReLU(nn.Sequential):
    def __init__(self, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.add = torch.nn.quantized.FloatFunctional()

    def forward(self, x):
        out = self.conv(x)
        out = self.bn(out)
        return self.relu(self.add.add(x, out))


class ConvAddReLU(nn.Sequential):
    def __init__(self, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.relu = nn.ReLU()
        self.add = torch.nn.quantized.FloatFunctional()

    def forward(self, x):
        out = self.conv(x)
        return self.relu(self.add.add(x, out))


class NonHybridModel(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.quant = QuantStub()
        self.layer0 = ConvBNReLU()
        self.layer1 = ConvAddReLU()
        self.layer2 = ConvBNAddReLU()
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.dequant = DeQuantStub()

    def forward(self, input):
        x = self.quant(input)
        x = self.layer0(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.conv1(x)
        return self.dequant(x)


data_shape = [1, 3, 224, 224]
data = torch.rand(size=data_shape)
model = NonHybridModel()
float_res = model(data)

set_march(March.BAYES)
calibration_model = prepare_qat_fx(
    model,
    {
        "": get_default_calib_qconfig(),
    },
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
)
qat_res = qat_model(data)

quantize_model = convert_fx(qat_model)
quantize_res = quantize_model(data)

export_to_onnx(qat_model, data, str(FOLDER / "qat.onnx"), enable_onnx_checker=True, operator_export_type=None)
traced_model = torch.jit.trace(quantize_model, data)
check_model(quantize_model, data, advice=1)
compile_model(traced_model, [data], opt=3, hbm=str(FOLDER / "model.hbm"))
