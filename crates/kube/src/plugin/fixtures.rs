//! Cards for this module's tests.

use model::Bdf;

use super::{Found, Gpu, Part, found::FORM};

/// A card of no particular machine.
pub(crate) fn gpu(index: u32) -> Gpu {
    let bus = 0x10 + index as u8;
    Gpu {
        bdf: Bdf::new(0, bus, 0, 0),
        uuid: Some(format!("GPU-00000000-0000-4000-8000-{index:012}")),
        index,
        minor: Some(index),
        product: "NVIDIA A100-SXM4-40GB".into(),
        numa: Some(index / 4),
        nodes: vec![format!("/dev/nvidia{index}"), format!("/dev/dri/card{index}")],
        mig: false,
        parts: Vec::new(),
        withheld: None,
        path: vec![format!("pci0000:{bus:02x}")],
        board: None,
        nvlinks: Vec::new(),
    }
}

/// A card cut into these profiles.
pub(crate) fn cut(index: u32, profiles: &[&str]) -> Gpu {
    let part = |(at, profile): (usize, &&str)| Part {
        uuid: Some(format!("MIG-00000000-0000-4000-{index:04}-{at:012}")),
        index: at as u32,
        profile: profile.to_string(),
        nodes: vec![format!("/dev/nvidia-caps/nvidia-cap{}", index * 100 + at as u32)],
    };
    Gpu { mig: true, parts: profiles.iter().enumerate().map(part).collect(), ..gpu(index) }
}

pub(crate) fn found(gpus: Vec<Gpu>) -> Found {
    let control = ["/dev/nvidiactl", "/dev/nvidia-uvm"].map(str::to_owned).to_vec();
    Found { form: FORM, driver: Some("580.159.04".into()), nvml: true, gpus, control, imex: vec![0], notes: Vec::new() }
}

pub(crate) fn gpus(count: u32) -> Found {
    found((0..count).map(gpu).collect())
}
