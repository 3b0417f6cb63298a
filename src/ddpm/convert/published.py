"""Which published files of OpenAI's are which presets: what a file's shapes do not say, its name does."""

from __future__ import annotations

PUBLISHED = {
    # improved-diffusion (Nichol & Dhariwal 2021)
    "cifar10_uncond_50M_500K.pt": "iddpm-cifar10-hybrid",
    "cifar10_uncond_vlb_50M_500K.pt": "iddpm-cifar10-vlb",
    "imagenet64_uncond_100M_1500K.pt": "iddpm-imagenet64-hybrid",
    "imagenet64_uncond_vlb_100M_1500K.pt": "iddpm-imagenet64-vlb",
    "imagenet64_cond_270M_250K.pt": "iddpm-imagenet64-cond",
    "upsample_cond_500K.pt": "iddpm-imagenet256-upsampler",
    "lsun_uncond_100M_1200K_bs128.pt": "iddpm-lsun-bedroom256",
    "lsun_uncond_100M_2400K_bs64.pt": "iddpm-lsun-bedroom256",  # the same net, trained longer at a lower rate
    # guided-diffusion (Dhariwal & Nichol 2021)
    "64x64_diffusion.pt": "adm-imagenet64",
    "128x128_diffusion.pt": "adm-imagenet128",
    "256x256_diffusion.pt": "adm-imagenet256",
    "256x256_diffusion_uncond.pt": "adm-imagenet256-uncond",
    "512x512_diffusion.pt": "adm-imagenet512",
    "64_256_upsampler.pt": "adm-imagenet256-upsampler",
    "128_512_upsampler.pt": "adm-imagenet512-upsampler",
    "64x64_classifier.pt": "adm-imagenet64-classifier",
    "128x128_classifier.pt": "adm-imagenet128-classifier",
    "256x256_classifier.pt": "adm-imagenet256-classifier",
    "512x512_classifier.pt": "adm-imagenet512-classifier",
    "lsun_bedroom.pt": "adm-lsun-bedroom256",
    "lsun_cat.pt": "adm-lsun-cat256",
    "lsun_horse.pt": "adm-lsun-horse256",
    "lsun_horse_nodropout.pt": "adm-lsun-horse256-nodropout",
}
"""File name → name of the preset."""
