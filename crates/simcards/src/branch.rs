//! What a driver branch brings, beside functions (those are in `symbols`).

/// NVENC's newest API of a branch. Source: the minimum drivers that FFmpeg's nv-codec-headers name for each API.
pub fn nvenc_api(branch: u32) -> (u32, u32) {
    match branch {
        ..=389 => (8, 0),
        390..=434 => (8, 1),
        435..=444 => (9, 1),
        445..=454 => (10, 0),
        455..=469 => (11, 0),
        470..=519 => (11, 1),
        520..=529 => (12, 0),
        530..=549 => (12, 1),
        550..=569 => (12, 2),
        _ => (13, 0),
    }
}

/// Encoding sessions at once on GeForce cards, over all cards and containers of a machine. Source: NVIDIA's support matrix
/// and its archived versions, by the branch that raised it.
pub fn sessions(branch: u32) -> usize {
    match branch {
        590.. => 12,
        550..590 => 8,
        530..550 => 5,
        _ => 3,
    }
}

/// The newest PTX version that a driver compiles, by its CUDA version (1000 * major + 10 * minor). Source: PTX ISA,
/// release notes: CUDA 10 has 6.3 and up, each CUDA since 11 counts its own minor, from 7.0, 8.0 and 9.0.
pub fn ptx(cuda: i32) -> (i32, i32) {
    let (major, minor) = (cuda / 1000, cuda % 1000 / 10);
    match major {
        ..=9 => (6, 2),
        10 => (6, 3 + minor),
        _ => (major - 4, minor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_count_upwards() {
        assert_eq!([nvenc_api(470), nvenc_api(580), nvenc_api(535)], [(11, 1), (13, 0), (12, 1)]);
        assert_eq!([sessions(470), sessions(535), sessions(580), sessions(595)], [3, 5, 8, 12]);
        assert_eq!([ptx(11040), ptx(13000), ptx(12080), ptx(10020)], [(7, 4), (9, 0), (8, 8), (6, 5)]);
    }
}
