"""The backbone: a StyleGAN2 skip generator that draws the three feature planes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copo.config import GeneratorConfig
from copo.errors import CopoError
from copo.networks.layers import Conv, ModulatedConv, NoiseMode, ToPicture, upsample_picture


class SynthesisBlock(nn.Module):
    """One resolution: upsampling convolution (not in the first block), convolution, to-planes layer.

    Args:
        config: Sizes.
        resolution: Side of the block's pictures.
    """

    def __init__(self, config: GeneratorConfig, resolution: int) -> None:
        super().__init__()
        channels = config.channels(resolution)
        options = {"resampling": config.resampling, "noise_input": config.noise_inputs}
        self.conv0: ModulatedConv | None = None
        if resolution > 4:
            below = config.channels(resolution // 2)
            self.conv0 = ModulatedConv(below, channels, config.w_dim, resolution, up=2, **options)  # type: ignore[arg-type]
        self.conv1 = ModulatedConv(channels, channels, config.w_dim, resolution, **options)  # type: ignore[arg-type]
        self.to_planes = ToPicture(channels, 3 * config.plane_channels, config.w_dim)
        guided = config.guide_channels and 8 <= resolution <= config.guide_resolution
        self.guide = Conv(config.guide_channels, channels, 1, bias=False, activate=False) if guided else None
        self.resampling = config.resampling

    def forward(
        self, x: Tensor, planes: Tensor | None, ws: Tensor, noise: NoiseMode, guide: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (B, I, H, W), planes (B, 3C, H, W) or None, ws (B, 2 or 3, w_dim) -> both at this block's resolution.

        `guide` (B, G, R, R) are the head's maps, of this block's resolution.

        The planes are summed in float32 or bfloat16, never in float16.
        """
        used = 0
        if self.conv0 is not None:
            x = self.conv0(x, ws[:, 0], noise)
            used = 1
        if self.guide is not None and guide is not None:
            x = x + self.guide(guide.to(x.dtype))
        x = self.conv1(x, ws[:, used], noise)
        new = self.to_planes(x, ws[:, used + 1])
        if new.dtype == torch.float16:
            new = new.float()
        return x, new if planes is None else upsample_picture(planes, self.resampling) + new


class Synthesis(nn.Module):
    """ws to planes.

    Args:
        config: Sizes.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.const = nn.Parameter(torch.randn(config.channels(4), 4, 4))
        self.blocks = nn.ModuleList(SynthesisBlock(config, r) for r in config.plane_levels)

    def forward(
        self,
        ws: Tensor,
        noise: NoiseMode = "const",
        dtype: torch.dtype = torch.float32,
        guide: Tensor | None = None,
    ) -> Tensor:
        """ws (B, ws_count, w_dim) float32 -> planes (B, 3, C, R, R): xz, xy, yz.

        Args:
            ws: Intermediate latents, dealt out in order; a block's last is the next block's first.
            noise: Per-pixel noise: the stored pictures, fresh ones, or none.
            dtype: Type of the activations. Planes come in this type, but float32 for float16.
            guide: (B, guide_channels, guide_resolution, guide_resolution) the head's maps, where it is guided.

        Raises:
            CopoError: The maps are missing, or there are some that the backbone does not look at.

        The memory of a plane is channels-last: the 3 C channels of a texel lie next to each other.
        """
        x = self.const.to(dtype).expand(ws.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        planes: Tensor | None = None
        start = 0
        guides = self._guides(guide)
        for block in self.blocks:
            side = 4 if block.conv0 is None else 2 * x.shape[-1]
            x, planes = block(x, planes, ws[:, start : start + 3], noise, guides.get(side))
            start += 2 if start else 1
        assert planes is not None
        return planes.unflatten(1, (3, self.config.plane_channels))

    def _guides(self, guide: Tensor | None) -> dict[int, Tensor]:
        """The maps at every side at which they enter."""
        if (guide is None) != (self.config.guide_channels == 0):
            raise CopoError(
                "backbone: it looks at maps of the head: give guide" if guide is None else "backbone: it is not guided"
            )
        out: dict[int, Tensor] = {}
        while guide is not None and guide.shape[-1] >= 8:
            guide = guide.contiguous(memory_format=torch.channels_last)
            out[guide.shape[-1]] = guide
            guide = F.avg_pool2d(guide, 2)
        return out
