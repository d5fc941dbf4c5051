"""The starter recipe, with comments, that the command ``init`` writes."""

from __future__ import annotations

STARTER = """\
# A recipe for edge-inception. Build it with: edge-inception build
# Paths are relative to this file; build.out is relative to the folder you run in.
schema = 1

[model]
name = "inception_v4"              # `edge-inception models` lists all
checkpoint = "my.safetensors"      # safetensors, torch.load(weights_only=True) or npz file
# checkpoint_format = "auto"       # or its publisher: timm, torchvision, slim, keras, ...
# onnx = "classifier.onnx"         # instead of the three above; then [preprocess] mean and std too
# num_classes = 1000               # classes that the checkpoint's head must have
# options = { width = 1.0 }        # width of the channels, for small edge variants
# head = "logits"                  # output of the graph; or softmax, topk:5
# fold_preprocessing = "none"      # uint8, uint8-nhwc: the graph takes pixels and normalises them

# [preprocess]                     # only what differs from the model's published preprocessing
# input_size = 299                 # or [height, width]
# crop_fraction = 0.875
# crop = "after_resize"            # before_resize: as TF-slim
# interpolation = "bicubic"        # nearest, bilinear, bicubic, lanczos
# channel_order = "RGB"            # or BGR
# mean = [0.5, 0.5, 0.5]           # in the channel order, for pixels from 0 to 1
# std = [0.5, 0.5, 0.5]

[data]
calibration = "photos"             # a folder of images; never used for accuracy
validation = "labelled"            # a folder of class folders; plain images: no accuracy gate
# calibration_split = "train"      # of a set file
# validation_split = "test"        # of a set file
# labels = "labels.txt"            # one class name per line, line number = logit index
# skip_bad_images = false          # true leaves unreadable images out and counts them

[build]
precision = "int8"                 # fp32, fp16, int8, or best: the better of the last two
# targets = ["cpu"]                # `edge-inception targets` lists all
# batch = 1
# dynamic_batch = "1:4:8"          # MIN:OPT:MAX instead of a static batch
# threads = 2                      # 0 = all cores this process may use
# compute_capabilities = ["8.9"]   # of the GPUs that target rtx is compiled for
# jetpack = "6.2"                  # of a Jetson target; left out, all of its releases
# tensorrt = "10.7"                # of the device, where it is not the one of its JetPack
# dla = false                      # true adds what the accelerators of a Jetson need
# bundle = false                   # true packs a folder that builds and checks the engine there
out = "build/my-model"

[calibrate]
max_images = 512
# calibrator = "auto"              # by trial; or max, mse-max, mse, entropy, percentile:99.99
# effort = "default"               # quick: one pass over the images; max: every combination
# batch = 8
# seed = 0                         # of the sample of activations

# [quantize]
# typing = "strong"                # int8 that TensorRT takes; cpu, the default if every target is
                                   # a CPU, has uint8 activations with zero points
# float_rest = "fp16"              # or fp32: the part of an int8 graph that is float
# placement = "weighted-ends"      # without these lines, each by the trial; all placements
# rounding = "second-order"        # are in `build --help`
# fold_zero_points = true
# keep_float = []                  # groups that stay float in an int8 graph
# bias_correction = true           # each bias is corrected by what int8 adds to the mean output of
                                   # its layer

# [search]                         # keeps the fewest groups in float that bring int8 within
# max_drop_pp = 0.5                # this budget on the calibration images, best with labels
# drop_type = "absolute"           # or relative: percent of the FP32 top-1
# max_groups = 0                   # most groups in float; 0: no limit

# [latency]
# rounds = 10                      # interleaved over all engines
# calls_per_block = 20

[gates]                            # exit code 6 for a missed gate, 8 for an undecided one
max_drop_pp = 1.0                  # top-1 drop, percentage points, upper 95 % bound
min_agreement = 0.98               # share of images with the same top-1 as PyTorch FP32
min_sqnr_db = 20.0                 # of the centred logits
# min_speedup = 1.5                # over the same engine library at f32, lower 95 % bound
"""
