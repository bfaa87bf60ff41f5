//! NVML's answer of a laid-out tree, where a simulated machine keeps it: a tree does not run, so that nobody could ask.

use machine::nvml::{NvmlGpu, NvmlMig, NvmlMigDevice, NvmlReport};
use machine::{Answer, SIM_DIR};
use model::Seen;
use simcards::view::View;
use simdriver::Laid;

/// The cards of a box with their MIG devices, as the simulated NVML would say them.
pub fn answer(laid: &Laid, text: &str) {
    let view = View::new(text, "").expect("a view");
    let mut report = NvmlReport {
        driver_version: Seen::Is(view.driver.version.clone()),
        nvml_version: Seen::Absent,
        cuda_version: Seen::Is((view.driver.cuda as u32 / 1000, view.driver.cuda as u32 % 1000 / 10)),
        confidential: Seen::Absent,
        gpus: Vec::new(),
    };
    for (index, gpu) in (0..).zip(&view.gpus) {
        let profile = |instance| gpu.profile(instance).expect("a profile");
        let devices = (0..).zip(gpu.instances()).map(|(index, instance)| NvmlMigDevice {
            index,
            uuid: Seen::Is(gpu.mig_uuid(instance)),
            profile: Seen::Is(instance.profile.clone()),
            gpu_instance: Seen::Is(instance.gi),
            compute_instance: Seen::Is(0),
            memory_total: Seen::Is(profile(instance).memory_mib << 20),
            memory_used: Seen::Absent,
            memory_free: Seen::Absent,
            memory_reserved: Seen::Absent,
            bar1_total: Seen::Absent,
            bar1_used: Seen::Absent,
            bar1_free: Seen::Absent,
            multiprocessors: Seen::Is(profile(instance).sm),
            copy_engines: Seen::Is(profile(instance).ce),
            decoders: Seen::Is(profile(instance).dec),
            encoders: Seen::Is(profile(instance).enc),
            jpegs: Seen::Is(profile(instance).jpeg),
            ofas: Seen::Is(profile(instance).ofa),
            sram_uncorrected: Seen::Absent,
        });
        let mig = NvmlMig { devices: Seen::Is(devices.collect()), ..NvmlMig::default() };
        report.gpus.push(NvmlGpu {
            bus_id: Seen::Is(gpu.bus_id()),
            uuid: Seen::Is(gpu.uuid()),
            minor: Seen::Is(index),
            name: Seen::Is(gpu.card.name.clone()),
            memory_total: Seen::Is(gpu.total()),
            compute_capability: Seen::Is((gpu.card.compute[0], gpu.card.compute[1])),
            mig_enabled: if gpu.card.mig.is_some() { Seen::Is(gpu.mig_enabled()) } else { Seen::Absent },
            mig: Seen::Is(Box::new(mig)),
            ..NvmlGpu::blank(index)
        });
    }
    let dir = laid.root.join(SIM_DIR.trim_start_matches('/')).join("answers");
    std::fs::create_dir_all(&dir).expect("a folder");
    let json = serde_json::to_vec(&Answer::Nvml(Box::new(report))).expect("is JSON");
    std::fs::write(dir.join("nvml-all.json"), json).expect("writes");
}
