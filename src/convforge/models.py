"""Layers of well-known networks by name, and the corpus of small problems that tests and benchmarks run through.

A layer's shapes are those of the paper, or of torchvision where the paper leaves them open; batch 1 in the tables.
"""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from functools import cache

from convforge import checks
from convforge.problem import Problem, parse

#: name and problem string of each layer; layers of one shape stand once.
_SUITES = {
    # Krizhevsky, Sutskever and Hinton 2012: two groups for the two GPUs
    "alexnet": """
        conv1  n1c3k96i227x227f11x11s4:bias
        pool1  max:n1c96i55x55f3x3s2
        conv2  n1c96k256i27x27f5x5p2g2:bias
        pool2  max:n1c256i27x27f3x3s2
        conv3  n1c256k384i13x13f3x3p1:bias
        conv4  n1c384k384i13x13f3x3p1g2:bias
        conv5  n1c384k256i13x13f3x3p1g2:bias
        pool5  max:n1c256i13x13f3x3s2
    """,
    # Simonyan and Zisserman 2014, configuration D
    "vgg16": """
        conv1_1  n1c3k64i224x224f3x3p1:bias
        conv1_2  n1c64k64i224x224f3x3p1:bias
        pool1    max:n1c64i224x224f2x2s2
        conv2_1  n1c64k128i112x112f3x3p1:bias
        conv2_2  n1c128k128i112x112f3x3p1:bias
        pool2    max:n1c128i112x112f2x2s2
        conv3_1  n1c128k256i56x56f3x3p1:bias
        conv3_x  n1c256k256i56x56f3x3p1:bias
        pool3    max:n1c256i56x56f2x2s2
        conv4_1  n1c256k512i28x28f3x3p1:bias
        conv4_x  n1c512k512i28x28f3x3p1:bias
        pool4    max:n1c512i28x28f2x2s2
        conv5_x  n1c512k512i14x14f3x3p1:bias
        pool5    max:n1c512i14x14f2x2s2
    """,
    # Szegedy et al. 2014, table 1; of the inception modules the first, one in the middle and the last
    "googlenet": """
        conv1          n1c3k64i224x224f7x7s2p3:bias
        pool1          max:n1c64i112x112f3x3s2:ceil
        conv2_reduce   n1c64k64i56x56f1x1:bias
        conv2          n1c64k192i56x56f3x3p1:bias
        pool2          max:n1c192i56x56f3x3s2:ceil
        3a_1x1         n1c192k64i28x28f1x1:bias
        3a_3x3_reduce  n1c192k96i28x28f1x1:bias
        3a_3x3         n1c96k128i28x28f3x3p1:bias
        3a_5x5_reduce  n1c192k16i28x28f1x1:bias
        3a_5x5         n1c16k32i28x28f5x5p2:bias
        3a_pool        max:n1c192i28x28f3x3p1
        3a_pool_proj   n1c192k32i28x28f1x1:bias
        3b_5x5         n1c32k96i28x28f5x5p2:bias
        pool3          max:n1c480i28x28f3x3s2:ceil
        4c_1x1         n1c512k128i14x14f1x1:bias
        4c_3x3         n1c128k256i14x14f3x3p1:bias
        4c_5x5_reduce  n1c512k24i14x14f1x1:bias
        4c_5x5         n1c24k64i14x14f5x5p2:bias
        4c_pool        max:n1c512i14x14f3x3p1
        pool4          max:n1c832i14x14f3x3s2:ceil
        5b_1x1         n1c832k384i7x7f1x1:bias
        5b_3x3         n1c192k384i7x7f3x3p1:bias
        5b_5x5         n1c48k128i7x7f5x5p2:bias
        5b_pool        max:n1c832i7x7f3x3p1
        avgpool        avg:n1c1024i7x7f7x7
    """,
    # He et al. 2015, with the stride in the 3x3 (torchvision's "v1.5"); conv2_x to conv5_x are the 3x3 of each stage,
    # reduce and expand the 1x1 before and after it, down the 3x3 that halves the map, reduce_first its 1x1
    "resnet50": """
        conv1               n1c3k64i224x224f7x7s2p3
        maxpool             max:n1c64i112x112f3x3s2p1
        conv2_reduce_first  n1c64k64i56x56f1x1
        conv2_x             n1c64k64i56x56f3x3p1
        conv2_expand        n1c64k256i56x56f1x1
        conv2_reduce        n1c256k64i56x56f1x1
        conv3_reduce_first  n1c256k128i56x56f1x1
        conv3_down          n1c128k128i56x56f3x3s2p1
        conv3_shortcut      n1c256k512i56x56f1x1s2
        conv3_reduce        n1c512k128i28x28f1x1
        conv3_x             n1c128k128i28x28f3x3p1
        conv3_expand        n1c128k512i28x28f1x1
        conv4_reduce_first  n1c512k256i28x28f1x1
        conv4_down          n1c256k256i28x28f3x3s2p1
        conv4_shortcut      n1c512k1024i28x28f1x1s2
        conv4_reduce        n1c1024k256i14x14f1x1
        conv4_x             n1c256k256i14x14f3x3p1
        conv4_expand        n1c256k1024i14x14f1x1
        conv5_reduce_first  n1c1024k512i14x14f1x1
        conv5_down          n1c512k512i14x14f3x3s2p1
        conv5_shortcut      n1c1024k2048i14x14f1x1s2
        conv5_reduce        n1c2048k512i7x7f1x1
        conv5_x             n1c512k512i7x7f3x3p1
        conv5_expand        n1c512k2048i7x7f1x1
        avgpool             avg:n1c2048i7x7f7x7
    """,
    # Xie et al. 2016, 32x4d: the grouped 3x3 of each stage
    "resnext50": """
        conv2_x     n1c128k128i56x56f3x3p1g32
        conv3_down  n1c256k256i56x56f3x3s2p1g32
        conv3_x     n1c256k256i28x28f3x3p1g32
        conv4_down  n1c512k512i28x28f3x3s2p1g32
        conv4_x     n1c512k512i14x14f3x3p1g32
        conv5_down  n1c1024k1024i14x14f3x3s2p1g32
        conv5_x     n1c1024k1024i7x7f3x3p1g32
    """,
    # Huang et al. 2016; first and last: the 1x1 of a block's first and last layer, conv: its 3x3
    "densenet121": """
        conv0         n1c3k64i224x224f7x7s2p3
        pool0         max:n1c64i112x112f3x3s2p1
        block1_first  n1c64k128i56x56f1x1
        block1_last   n1c224k128i56x56f1x1
        block1_conv   n1c128k32i56x56f3x3p1
        transition1   n1c256k128i56x56f1x1
        pool1         avg:n1c128i56x56f2x2s2
        block2_first  n1c128k128i28x28f1x1
        block2_last   n1c480k128i28x28f1x1
        block2_conv   n1c128k32i28x28f3x3p1
        transition2   n1c512k256i28x28f1x1
        pool2         avg:n1c256i28x28f2x2s2
        block3_first  n1c256k128i14x14f1x1
        block3_last   n1c992k128i14x14f1x1
        block3_conv   n1c128k32i14x14f3x3p1
        transition3   n1c1024k512i14x14f1x1
        pool3         avg:n1c512i14x14f2x2s2
        block4_first  n1c512k128i7x7f1x1
        block4_last   n1c992k128i7x7f1x1
        block4_conv   n1c128k32i7x7f3x3p1
        avgpool       avg:n1c1024i7x7f7x7
    """,
    # Sandler et al. 2018, width 1.0; a name's number is the block of table 2 (from 1), dw the depthwise 3x3
    "mobilenetv2": """
        conv0      n1c3k32i224x224f3x3s2p1
        1_dw       n1c32k32i112x112f3x3p1g32
        1_project  n1c32k16i112x112f1x1
        2_expand   n1c16k96i112x112f1x1
        2_dw_s2    n1c96k96i112x112f3x3s2p1g96
        2_project  n1c96k24i56x56f1x1
        3_expand   n1c24k144i56x56f1x1
        3_dw       n1c144k144i56x56f3x3p1g144
        3_project  n1c144k24i56x56f1x1
        4_dw_s2    n1c144k144i56x56f3x3s2p1g144
        4_project  n1c144k32i28x28f1x1
        5_expand   n1c32k192i28x28f1x1
        5_dw       n1c192k192i28x28f3x3p1g192
        5_project  n1c192k32i28x28f1x1
        7_dw_s2    n1c192k192i28x28f3x3s2p1g192
        7_project  n1c192k64i14x14f1x1
        8_expand   n1c64k384i14x14f1x1
        8_dw       n1c384k384i14x14f3x3p1g384
        8_project  n1c384k64i14x14f1x1
        11_project n1c384k96i14x14f1x1
        12_expand  n1c96k576i14x14f1x1
        12_dw      n1c576k576i14x14f3x3p1g576
        12_project n1c576k96i14x14f1x1
        14_dw_s2   n1c576k576i14x14f3x3s2p1g576
        14_project n1c576k160i7x7f1x1
        15_expand  n1c160k960i7x7f1x1
        15_dw      n1c960k960i7x7f3x3p1g960
        15_project n1c960k160i7x7f1x1
        17_project n1c960k320i7x7f1x1
        conv18     n1c320k1280i7x7f1x1
        avgpool    avg:n1c1280i7x7f7x7
    """,
    # Ronneberger, Fischer and Brox 2015, figure 1: no padding; the convolutions down, at the bottom and up
    "unet": """
        down1_1  n1c1k64i572x572f3x3:bias
        down1_2  n1c64k64i570x570f3x3:bias
        pool1    max:n1c64i568x568f2x2s2
        down2_1  n1c64k128i284x284f3x3:bias
        down2_2  n1c128k128i282x282f3x3:bias
        pool2    max:n1c128i280x280f2x2s2
        down3_1  n1c128k256i140x140f3x3:bias
        down3_2  n1c256k256i138x138f3x3:bias
        pool3    max:n1c256i136x136f2x2s2
        down4_1  n1c256k512i68x68f3x3:bias
        down4_2  n1c512k512i66x66f3x3:bias
        pool4    max:n1c512i64x64f2x2s2
        bottom1  n1c512k1024i32x32f3x3:bias
        bottom2  n1c1024k1024i30x30f3x3:bias
        up4_1    n1c1024k512i56x56f3x3:bias
        up4_2    n1c512k512i54x54f3x3:bias
        up3_1    n1c512k256i104x104f3x3:bias
        up3_2    n1c256k256i102x102f3x3:bias
        up2_1    n1c256k128i200x200f3x3:bias
        up2_2    n1c128k128i198x198f3x3:bias
        up1_1    n1c128k64i392x392f3x3:bias
        up1_2    n1c64k64i390x390f3x3:bias
        head     n1c64k2i388x388f1x1:bias
    """,
    # Liu et al. 2022, ConvNeXt-T: 7x7 depthwise, then two 1x1 (linear layers over the channels)
    "convnext": """
        stem           n1c3k96i224x224f4x4s4:bias
        stage1_dw      n1c96k96i56x56f7x7p3g96:bias
        stage1_expand  n1c96k384i56x56f1x1:bias
        stage1_project n1c384k96i56x56f1x1:bias
        stage2_down    n1c96k192i56x56f2x2s2:bias
        stage2_dw      n1c192k192i28x28f7x7p3g192:bias
        stage2_expand  n1c192k768i28x28f1x1:bias
        stage2_project n1c768k192i28x28f1x1:bias
        stage3_down    n1c192k384i28x28f2x2s2:bias
        stage3_dw      n1c384k384i14x14f7x7p3g384:bias
        stage3_expand  n1c384k1536i14x14f1x1:bias
        stage3_project n1c1536k384i14x14f1x1:bias
        stage4_down    n1c384k768i14x14f2x2s2:bias
        stage4_dw      n1c768k768i7x7f7x7p3g768:bias
        stage4_expand  n1c768k3072i7x7f1x1:bias
        stage4_project n1c3072k768i7x7f1x1:bias
    """,
    # Chen et al. 2017, DeepLabv3 at 513x513 with an output stride of 16: the last block and the spatial pyramid
    "deeplabv3": """
        block4  n1c512k512i33x33f3x3p2d2
        aspp_1  n1c2048k256i33x33f1x1
        aspp_6  n1c2048k256i33x33f3x3p6d6
        aspp_12 n1c2048k256i33x33f3x3p12d12
        aspp_18 n1c2048k256i33x33f3x3p18d18
        project n1c1280k256i33x33f1x1
    """,
    # Tan and Le 2019, EfficientNet-B0: the depthwise layers, of 3x3 and 5x5, and a squeeze-and-excitation
    "efficientnet_b0": """
        1_dw    n1c32k32i112x112f3x3p1g32
        2_dw_s2 n1c96k96i112x112f3x3s2p1g96
        2_dw    n1c144k144i56x56f3x3p1g144
        3_dw_s2 n1c144k144i56x56f5x5s2p2g144
        3_dw    n1c240k240i28x28f5x5p2g240
        4_dw_s2 n1c240k240i28x28f3x3s2p1g240
        4_dw    n1c480k480i14x14f3x3p1g480
        5_dw    n1c672k672i14x14f5x5p2g672
        6_dw_s2 n1c672k672i14x14f5x5s2p2g672
        6_dw    n1c1152k1152i7x7f5x5p2g1152
        7_dw    n1c1152k1152i7x7f3x3p1g1152
        squeeze n1c1152k48i1x1f1x1:bias
        excite  n1c48k1152i1x1f1x1:bias
    """,
    # Ultralytics 2023, YOLOv8n at 640x640: backbone, the pooling pyramid, the neck and the heads of the three scales
    "yolov8n": """
        stem         n1c3k16i640x640f3x3s2p1
        down2        n1c16k32i320x320f3x3s2p1
        c2f2_enter   n1c32k32i160x160f1x1
        c2f2_conv    n1c16k16i160x160f3x3p1
        c2f2_leave   n1c48k32i160x160f1x1
        down3        n1c32k64i160x160f3x3s2p1
        c2f3_enter   n1c64k64i80x80f1x1
        c2f3_conv    n1c32k32i80x80f3x3p1
        c2f3_leave   n1c128k64i80x80f1x1
        down4        n1c64k128i80x80f3x3s2p1
        c2f4_enter   n1c128k128i40x40f1x1
        c2f4_conv    n1c64k64i40x40f3x3p1
        c2f4_leave   n1c256k128i40x40f1x1
        down5        n1c128k256i40x40f3x3s2p1
        c2f5_enter   n1c256k256i20x20f1x1
        c2f5_conv    n1c128k128i20x20f3x3p1
        c2f5_leave   n1c384k256i20x20f1x1
        sppf_enter   n1c256k128i20x20f1x1
        sppf_pool    max:n1c128i20x20f5x5p2
        sppf_leave   n1c512k256i20x20f1x1
        neck4_enter  n1c384k128i40x40f1x1
        neck4_leave  n1c192k128i40x40f1x1
        neck3_enter  n1c192k64i80x80f1x1
        neck3_leave  n1c96k64i80x80f1x1
        neck_down4   n1c64k64i80x80f3x3s2p1
        neck_down5   n1c128k128i40x40f3x3s2p1
        box3_1       n1c64k64i80x80f3x3p1
        box3_out     n1c64k64i80x80f1x1:bias
        class3_1     n1c64k80i80x80f3x3p1
        class3_2     n1c80k80i80x80f3x3p1
        class3_out   n1c80k80i80x80f1x1:bias
        box4_1       n1c128k64i40x40f3x3p1
        class4_1     n1c128k80i40x40f3x3p1
        box5_1       n1c256k64i20x20f3x3p1
        class5_1     n1c256k80i20x20f3x3p1
    """,
    # filters of an image pipeline: each channel by itself
    "filters": """
        sobel         n1c1k1i1024x1024f3x3p1
        sobel_pair    n1c1k2i1024x1024f3x3p1
        gaussian5     n1c1k1i1024x1024f5x5p2
        gaussian7     n1c1k1i1024x1024f7x7p3
        box15         n1c1k1i1024x1024f15x15p7
        gaussian31    n1c1k1i1024x1024f31x31p15
        row9          n1c1k1i1024x1024f1x9p0x4
        column9       n1c1k1i1024x1024f9x1p4x0
        rgb_sobel     n1c3k3i1080x1920f3x3p1g3
        rgb_gaussian5 n1c3k3i1080x1920f5x5p2g3
        dilate3       max:n1c1i1024x1024f3x3p1
        halve         avg:n1c3i1080x1920f2x2s2
    """,
    # LeCun et al. 1998 (on 28x28 digits), a small CIFAR-10 network and one for 8x8 digits: calls of microseconds
    "tiny": """
        lenet_conv1   n1c1k6i28x28f5x5:bias
        lenet_pool1   avg:n1c6i24x24f2x2s2
        lenet_conv2   n1c6k16i12x12f5x5:bias
        lenet_pool2   avg:n1c16i8x8f2x2s2
        cifar_conv1   n1c3k32i32x32f3x3p1:bias
        cifar_conv2   n1c32k32i32x32f3x3p1:bias
        cifar_pool    max:n1c32i32x32f2x2s2
        cifar_conv3   n1c32k64i16x16f3x3p1:bias
        digits_conv1  n1c1k16i8x8f3x3p1:bias
        digits_conv2  n1c16k32i8x8f3x3p1:bias
        digits_pool   max:n1c32i8x8f2x2s2
    """,
}

#: Problem strings by the edge they are there for.
_CORPUS = {
    "one pixel, no image": """
        n1c1k1i1x1f1x1  n1c1k1i1x1f3x3p1  n1c3k2i1x1f5x5p2:bias  n1c6k6i1x1f3x3p1g6  n0c2k3i5x5f3x3p1
        n1c37k70i1x1f1x1:bias  n7c12k34i4x3f4x3g2:bias  n2c5k9i3x4f3x3s2  n3c19k6i2x2f2x2:float64
    """,
    "3x3 at stride 1: odd channels, tails of tiles and vectors, one output, long sums, many pixels": """
        n1c1k1i9x9f3x3  n2c3k5i7x9f3x3p1:bias  n1c4k8i12x12f3x3  n3c8k8i6x6f3x3p1  n1c8k9i17x17f3x3p1
        n1c5k17i5x49f3x3p1  n1c3k9i4x47f3x3p1  n1c2k8i3x48f3x3p1:bias  n1c16k16i14x14f3x3p1  n2c9k24i7x7f3x3p1
        n1c40k12i8x8f3x3p1  n1c12k40i4x8f3x3p1  n1c130k3i4x4f3x3p1  n1c130k9i4x4f3x3p1  n1c2k3i13x15f3x3p2
        n1c3k4i5x5f3x3p2x1  n1c2k2i3x3f3x3  n1c2k2i8x4f3x3p0x1  n1c2k8i40x40f3x3p1
    """,
    "1x1": """
        n1c7k16i9x25f1x1  n1c16k7i4x12f1x1:bias  n1c2k8i7x7f1x1  n1c300k5i3x5f1x1  n1c33k13i1x47f1x1
        n3c17k25i5x5f1x1  n2c6k10i9x8f1x1s2  n1c3k5i11x13f1x1s3p1  n1c3k3i6x5f1x1p1
    """,
    "strides, also beyond the kernel and with pixels that nothing reads": """
        n1c3k4i11x13f3x3s2p1  n2c4k6i12x12f3x3s2p0_1:bias  n1c3k4i14x10f3x3s3p1  n1c2k5i15x18f3x3s4
        n1c3k8i23x23f7x7s2p3  n1c3k4i31x31f11x11s4p2  n1c2k3i13x10f2x2s4  n1c4k4i9x9f2x2s2  n1c2k3i10x11f3x3s1x2p1
        n1c2k3i8x35f3x3s2x1p1  n1c2k4i12x12f4x4s4  n1c2k3i9x33f5x5s2p2
        n1c3k4i13x80f3x3s3p1  n1c2k3i20x70f5x5s5p2  n2c7k17i19x45f3x3s2p1:bias  n1c9k5i8x33f3x3s2p0_1
        n1c7k70i9x9f3x3s2p1  n2c6k40i8x8f5x5s2p2:bias  n1c40k36i11x10f1x1s2  n1c24k48i15x14f3x3s2p1g3
        n1c6k40i9x13f2x2s3
    """,
    "other kernels": """
        n1c3k4i9x9f5x5p2  n1c1k8i16x16f5x5  n1c2k3i8x20f1x3p0x1  n1c2k3i20x8f3x1p1x0  n1c4k4i1x9f1x9
        n1c5k7i9x21f5x5p2:bias  n1c8k6i10x22f5x5p0_2x3g2
    """,
    "uneven padding, padding beyond the kernel": """
        n1c2k3i7x8f5x2p2x1_0  n1c2k3i8x9f4x4p1_2  n1c2k3i6x7f3x3p1_2x0_1  n1c2k3i7x8f3x3s2p0_3x2_0  n1c2k2i3x4f2x2p3
        n1c1k2i2x2f3x3p4x5  n1c2k3i5x6f3x3s3p0_2x4_1
    """,
    "dilation, with strides that share a divisor or none": """
        n1c3k4i12x13f3x3p2d2  n1c2k3i15x11f3x3p3x1d3x1  n1c2k3i13x14f3x3s2p2d2  n1c2k3i12x16f3x3s3p1d2
        n1c2k2i17x9f3x2s2x4p3x1d4x3  n1c2k3i9x9f2x2d5  n2c3k9i13x22f5x5p4d2:bias  n1c9k4i10x11f3x3p4d5
        n2c3k5i12x17f3x3p2d2x3:float64
    """,
    "groups": """
        n1c4k6i8x9f3x3p1g2:bias  n2c6k9i7x7f3x3p1g3  n1c8k8i10x10f3x3s2p1g4  n1c8k4i5x5f1x1g4  n1c6k4i9x8f3x3p2d2g2
        n1c32k32i6x7f3x3p1g8  n1c8k4i6x9f3x3p1g2
    """,
    "depthwise, also with several outputs a channel, and one-channel filters": """
        n1c8k8i9x17f3x3p1g8  n2c3k3i8x31f3x3p1g3:bias  n1c5k5i13x33f3x3s2p1g5  n1c4k8i7x15f3x3p1g4
        n1c3k9i10x12f3x3s2p0_1g3  n1c4k4i14x16f5x5p2g4  n1c3k3i12x47f7x7p3g3  n1c2k2i11x13f3x3p2d2g2
        n1c2k2i13x41f3x3p1g2  n1c2k4i17x57f3x3s2p2_0x1_2g2:bias
        n1c3k3i9x50f3x3p1_0x0_2g3  n1c2k2i16x20f3x3s3p1g2  n1c2k4i9x9f2x3s2x1g2  n1c2k2i10x10f1x1g2
        n1c1k1i20x65f3x3p1  n1c1k3i12x18f5x3p2x1
        n1c19k19i7x7f3x3p1g19:bias  n2c17k17i14x13f5x5s2p2g17  n1c33k33i3x5f5x5p2x3g33  n1c18k18i9x6f3x3p3_0x2d2g18
    """,
    "wide and narrow maps": """
        n1c2k3i2x300f3x3p1  n1c2k3i300x2f3x3p1  n1c3k2i1x64f1x3p0x1  n1c3k2i64x1f3x1p1x0
        n1c1k2i14x270f3x3p1  n1c2k2i19x301f3x3s2p1g2
        n1c1k2i5x90f1x9p0x4:bias  n1c2k2i4x77f1x5p0x2g2  n1c1k1i3x140f1x17  n1c2k2i3x70f1x5d1x2p0x4g2
        n1c6k16i12x12f5x5:bias  n2c18k36i15x14f3x3s2p1g2  n1c9k33i10x7f3x3p1_0x2_1  n1c48k16i8x6f3x3d2p2
    """,
    "float64 twins": """
        n2c3k5i7x9f3x3p1:bias:float64  n1c8k9i17x17f3x3p1:float64  n1c16k16i14x14f3x3p1:float64
        n1c5k17i5x25f3x3p1:float64  n1c7k16i9x25f1x1:float64  n1c5k8i6x8f1x1:float64  n1c3k4i11x13f3x3s2p1:float64
        n1c3k8i23x23f7x7s2p3:float64  n1c2k3i6x7f3x3p1_2x0_1:float64  n1c2k3i12x16f3x3s3p1d2:float64
        n2c6k9i7x7f3x3p1g3:float64  n1c8k8i9x17f3x3p1g8:float64  n1c3k9i10x12f3x3s2p0_1g3:bias:float64
        n1c5k9i13x15f5x5p2:float64  n2c5k9i13x15f3x3s2p1:float64
        n1c19k19i7x6f3x3s3p1g19:float64  n1c1k2i14x140f3x3p1:float64  n1c2k2i5x61f1x9p0x4g2:float64
        n1c6k9i12x12f5x5:float64
    """,
    "one and three dimensions": """
        n2c3k4i20f5p2:bias  n1c2k2i19f3s2p1d2  n1c4k4i16f3p1g4  n1c2k3i5x6x7f3x3x3p1
        n1c2k4i4x5x6f2x1x3s2x1x2p1_0x0x1_2g2:float64
    """,
    "max pooling": """
        max:n1c1i1x1f1x1  max:n1c2i1x1f3x3p1:indices  max:n0c2i4x4f2x2s2:indices  max:n2c3i8x8f2x2s2
        max:n1c3i8x66f2x2s2:indices  max:n1c2i9x11f3x3s2p1:indices  max:n2c3i12x35f3x3s2p1
        max:n1c2i7x50f3x3p1:indices  max:n1c3i10x9f3x3s2:ceil:indices  max:n1c2i7x7f2x2s3p1:ceil
        max:n1c2i2x2f3x3s2:ceil:indices  max:n1c2i9x9f2x2s4:indices  max:n1c2i11x20f5x5p2:indices
        max:n1c2i6x7f4x4s2p2_1x0_2:indices  max:n1c2i10x33f3x3s1x2p1d2:indices
        max:n1c2i13x12f2x3s3x2p0x2d1x3:ceil  max:n1c2i3x100f3x3p1  max:n1c2i100x3f3x3s2p1:indices
        max:n1c3i9x9f1x1s2:indices  max:n1c2i5x20f1x4s1x3:indices  max:n2c3i9x17f3x3s2p1:indices:float64
        max:n1c2i8x8f2x2s2:float64  max:n1c2i10x9f3x3s2:ceil:indices:float64  max:n1c3i17f3s2p1:indices
        max:n1c2i4x5x6f2x3x2s2p0x1x1:ceil:indices
    """,
    "average pooling": """
        avg:n1c1i1x1f1x1  avg:n1c2i1x1f3x3p1  avg:n0c2i4x4f2x2s2  avg:n2c3i8x8f2x2s2  avg:n1c3i8x66f2x2s2
        avg:n1c5i7x7f7x7  avg:n1c2i9x11f3x3s2p1  avg:n1c2i9x11f3x3s2p1:exclude_pad
        avg:n1c2i7x50f3x3p1:exclude_pad  avg:n1c3i10x9f3x3s2:ceil  avg:n1c2i7x7f2x2s3p1:ceil
        avg:n1c2i7x7f3x3s3p1:ceil:exclude_pad  avg:n1c2i2x2f3x3s2:ceil  avg:n1c2i9x9f2x2s4
        avg:n1c2i8x35f3x3s2p1:divisor=5  avg:n1c2i6x7f4x4s2p2_1x0_2  avg:n1c2i6x7f4x4s2p2_1x0_2:ceil:exclude_pad
        avg:n1c2i5x20f1x4s1x3  avg:n1c2i3x100f3x3p1  avg:n1c2i9x11f3x3s2p1:float64
        avg:n1c2i8x8f2x2s2:divisor=3:float64  avg:n1c3i10x9f3x3s2p1:ceil:exclude_pad:float64
        avg:n1c3i17f3s2p1:exclude_pad  avg:n1c2i4x5x6f2x3x2s2p0x1x1:ceil
    """,
}


def suites() -> tuple[str, ...]:
    """Return the names of the suites."""
    return tuple(_SUITES)


def suite(name: str, batch: int = 1) -> dict[str, Problem]:
    """Return the layers of a network by name, for a batch of images.

    Raises
    ------
    ValueError
        There is no such suite; the message lists near matches.
    """
    batch = checks.integer("batch", batch, 0)
    return {layer: replace(problem, n=batch) for layer, problem in _layers(name).items()}


def layer(name: str, batch: int = 1) -> Problem:
    """Return one layer, named as in ``resnet50:conv2_x``, for a batch of images.

    Raises
    ------
    ValueError
        There is no such layer; the message lists near matches.
    """
    if not isinstance(name, str):
        raise TypeError(f"a layer's name must be a str, got {name!r} of type {type(name).__name__}")
    network, _, which = name.partition(":")
    layers = _layers(network)
    if which not in layers:
        raise ValueError(_unknown(f"layer of {network}", which, layers))
    return replace(layers[which], n=checks.integer("batch", batch, 0))


@cache
def corpus() -> tuple[Problem, ...]:
    """Return small problems that together meet every edge: tests and benchmarks run all algorithms on them.

    Each takes less than a million operations. Beside the edges of the geometry there are empty batches, tails of every
    vector width and register tile, pools with all their flags, float64, and 1-D and 3-D problems.
    """
    return tuple(parse(text) for texts in _CORPUS.values() for text in texts.split())


@cache
def _layers(name: str) -> dict[str, Problem]:
    if name not in _SUITES:
        raise ValueError(_unknown("suite", name, _SUITES))
    words = _SUITES[name].split()
    return {layer: parse(text) for layer, text in zip(words[::2], words[1::2], strict=True)}


def _unknown(what: str, name: str, known: dict[str, str] | dict[str, Problem]) -> str:
    near = get_close_matches(name, known, n=4, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return f"no {what} is called {name!r}: {hint}"
