//! Flash attention: softmax(Q Kᵀ) V without the scores in memory, for packed sequences. Dao,
//! "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning" (2023).

use candle_core::{DType, Device, Result, Tensor};

/// The kernel, where this build and the card have it. In builds without it there is no value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flash {
    /// It can be used.
    #[cfg(feature = "flash-attn")]
    Available,
}

#[cfg(feature = "flash-attn")]
impl Flash {
    /// Numbers of a head: at most so many, and a multiple of 8.
    const LARGEST_HEAD: usize = 256;

    /// The kernel for heads of `head` numbers, if `device` (compute capability 8.0 or later) and
    /// `dtype` (16 bits) allow it.
    pub(crate) fn on(device: &Device, dtype: DType, head: usize) -> Option<Self> {
        let short = matches!(dtype, DType::F16 | DType::BF16);
        let fits = head <= Self::LARGEST_HEAD && head.is_multiple_of(8);
        let (major, _) = super::cuda::compute_capability(device)?;
        (short && fits && major >= 8).then_some(Self::Available)
    }

    /// The context of each token, `[tokens, heads, head]`, from queries (scaled), keys and values of
    /// that shape. `bounds` tells in which row each sequence begins and where the last one ends;
    /// `window`, how far a token sees.
    pub(crate) fn attend(
        self,
        [queries, keys, values]: &[Tensor; 3],
        bounds: &Tensor,
        longest: usize,
        window: Option<usize>,
    ) -> Result<Tensor> {
        match self {
            Self::Available => candle_flash_attn::flash_attn_varlen_windowed(
                queries, keys, values, bounds, bounds, longest, longest, 1.0, window, window,
            ),
        }
    }
}

#[cfg(not(feature = "flash-attn"))]
impl Flash {
    pub(crate) fn on(_: &Device, _: DType, _: usize) -> Option<Self> {
        None
    }

    pub(crate) fn attend(
        self,
        _: &[Tensor; 3],
        _: &Tensor,
        _: usize,
        _: Option<usize>,
    ) -> Result<Tensor> {
        match self {}
    }
}
