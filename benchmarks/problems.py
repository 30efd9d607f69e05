"""What is benchmarked by default, and with --full."""

from convforge import models

#: A layer of each kind; all of it takes two minutes.
FAST = {
    name: models.layer(name)
    for name in (
        "resnet50:conv1",
        "resnet50:conv2_x",
        "resnet50:conv3_down",
        "resnet50:conv4_reduce",
        "resnet50:conv5_x",
        "resnext50:conv4_x",
        "mobilenetv2:5_dw",
        "filters:sobel",
        "tiny:lenet_conv1",
        "tiny:digits_conv2",
        "resnet50:maxpool",
        "densenet121:pool2",
    )
}


def every_layer():
    """Every layer of every suite by name."""
    return {f"{suite}:{layer}": problem for suite in models.suites() for layer, problem in models.suite(suite).items()}
