//! A capture of a live H100 guest, and what `nvidia-smi -q -x` said just before and just after it.

use std::path::{Path, PathBuf};

use machine::nvml::{NvmlGpu, NvmlReport};
use machine::{Answer, Machine as _, Question};
use model::Seen;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/h100-live").join(name)
}

const BEFORE: &str = include_str!("fixtures/h100-live/before/q.xml");
const AFTER: &str = include_str!("fixtures/h100-live/after/q.xml");

/// The text of the element at this path, found without an XML reader: `gpu` is the only one of its kind here.
fn said<'a>(xml: &'a str, path: &str) -> &'a str {
    let mut inside = xml;
    for name in path.split('/') {
        let start = inside.find(&format!("<{name}>")).unwrap_or_else(|| panic!("{path}: no <{name}>"));
        inside = &inside[start + name.len() + 2..];
        inside = &inside[..inside.find(&format!("</{name}>")).expect("is closed")];
    }
    inside.trim()
}

fn ours() -> (gpu::Inventory, NvmlReport) {
    let machine = machine::capture::open(&fixture("capture.tar.zst")).expect("the fixture is readable");
    let inventory = gpu::observe(&machine);
    let report = inventory.nvml.get().expect("NVML answered").clone();
    (inventory, report)
}

/// `N/A` for what the driver does not have, as nvidia-smi writes it.
fn shown<T>(seen: &Seen<T>, form: impl Fn(&T) -> String) -> String {
    match seen {
        Seen::Is(value) => form(value),
        Seen::Absent => "N/A".to_owned(),
        Seen::Unreadable(why) => panic!("unreadable: {why}"),
    }
}

fn mib(seen: &Seen<u64>) -> String {
    shown(seen, |bytes| format!("{} MiB", bytes >> 20))
}

fn word(seen: &Seen<bool>) -> String {
    shown(seen, |on| if *on { "Enabled" } else { "Disabled" }.to_owned())
}

fn plain<T: ToString>(seen: &Seen<T>, unit: &str) -> String {
    shown(seen, |value| format!("{}{unit}", value.to_string()))
}

/// Every field that both have and that stands still between the two readings.
#[test]
fn each_field_agrees_with_nvidia_smi() {
    let (inventory, report) = ours();
    let gpu = &report.gpus[0];
    let hex = |seen: &Seen<u32>| shown(seen, |id| format!("{id:08X}"));
    let (major, minor) = *report.cuda_version.get().expect("is said");
    let rows: Vec<(&str, String)> = vec![
        ("driver_version", plain(&report.driver_version, "")),
        ("cuda_version", format!("{major}.{minor}")),
        ("attached_gpus", report.gpus.len().to_string()),
        ("product_name", plain(&gpu.name, "")),
        ("product_brand", plain(&gpu.brand, "")),
        ("product_architecture", plain(&gpu.architecture, "")),
        ("display_active", word(&gpu.display_active)),
        ("persistence_mode", word(&gpu.persistence)),
        ("mig_mode/current_mig", word(&gpu.mig_enabled)),
        ("serial", plain(&gpu.serial, "")),
        ("uuid", plain(&gpu.uuid, "")),
        ("minor_number", plain(&gpu.minor, "")),
        ("vbios_version", plain(&gpu.vbios, "")),
        ("gpu_virtualization_mode/virtualization_mode", plain(&gpu.virtualization, "")),
        ("pci/pci_bus_id", plain(&gpu.bus_id, "")),
        ("pci/pci_device_id", hex(&gpu.pci_device_id)),
        ("pci/pci_sub_system_id", hex(&gpu.pci_subsystem_id)),
        ("pcie_gen/max_link_gen", plain(&gpu.pcie_gen_max, "")),
        ("pcie_gen/current_link_gen", plain(&gpu.pcie_gen_current, "")),
        ("link_widths/max_link_width", plain(&gpu.pcie_width_max, "x")),
        ("link_widths/current_link_width", plain(&gpu.pcie_width_current, "x")),
        ("fan_speed", plain(&gpu.fan, " %")),
        ("performance_state", shown(&gpu.pstate, |state| format!("P{state}"))),
        ("fb_memory_usage/total", mib(&gpu.memory_total)),
        ("fb_memory_usage/reserved", mib(&gpu.memory_reserved)),
        ("fb_memory_usage/used", mib(&gpu.memory_used)),
        ("fb_memory_usage/free", mib(&gpu.memory_free)),
        ("bar1_memory_usage/total", mib(&gpu.bar1_total)),
        ("compute_mode", plain(&gpu.compute_mode, "")),
        ("utilization/gpu_util", plain(&gpu.utilization_gpu, " %")),
        ("utilization/memory_util", plain(&gpu.utilization_memory, " %")),
        ("utilization/encoder_util", plain(&gpu.utilization_encoder, " %")),
        ("utilization/decoder_util", plain(&gpu.utilization_decoder, " %")),
        ("encoder_stats/session_count", plain(&gpu.encoder_sessions, "")),
        ("ecc_mode/current_ecc", word(&gpu.ecc_enabled)),
        ("ecc_errors/volatile/dram_uncorrectable", plain(&gpu.ecc_uncorrected_volatile, "")),
        (
            "gpu_power_readings/current_power_limit",
            shown(&gpu.power_limit, |mw| format!("{}.{:02} W", mw / 1000, mw % 1000 / 10)),
        ),
        ("clocks/graphics_clock", plain(&gpu.clock_graphics, " MHz")),
        ("clocks/sm_clock", plain(&gpu.clock_sm, " MHz")),
        ("clocks/mem_clock", plain(&gpu.clock_memory, " MHz")),
        ("clocks/video_clock", plain(&gpu.clock_video, " MHz")),
    ];
    for (path, ours) in &rows {
        assert_eq!(said(BEFORE, path), said(AFTER, path), "{path} moved: it belongs to the other test");
        assert_eq!(ours, said(BEFORE, path), "{path}");
    }
    assert_eq!(said(BEFORE, "processes"), "", "nobody uses it");
    assert_eq!(gpu.processes, Seen::Is(Vec::new()));
    let card = &inventory.cards[0];
    assert_eq!(card.nvml.as_deref(), Some(gpu), "the report is the card's");
    assert_eq!(Some(said(BEFORE, "uuid")), card.identity.uuid.as_deref());
    assert_eq!(inventory.driver.kernel, Seen::Is(said(BEFORE, "driver_version").to_owned()));
}

/// What moves by itself lies between the readings, give or take what nvidia-smi's own two differ by.
#[test]
fn what_moves_lies_near_both_readings() {
    let (_, report) = ours();
    let gpu = &report.gpus[0];
    let number = |xml: &str, path: &str| {
        said(xml, path).split(' ').next().and_then(|text| text.parse::<f64>().ok()).expect("a number")
    };
    let watts = f64::from(*gpu.power_draw.get().expect("is said")) / 1000.0;
    let degrees = f64::from(*gpu.temperature.get().expect("is said"));
    for (path, ours, slack) in
        [("temperature/gpu_temp", degrees, 0.0), ("gpu_power_readings/average_power_draw", watts, 1.0)]
    {
        let (a, b) = (number(BEFORE, path), number(AFTER, path));
        assert!(ours >= a.min(b) - slack && ours <= a.max(b) + slack, "{path}: {ours}, nvidia-smi {a} and {b}");
    }
}

/// The same through our reader of nvidia-smi's XML: no field of the report is left out of the comparison.
#[test]
fn the_reader_of_nvidia_smi_gives_the_same_report() {
    let (_, report) = ours();
    let notes = machine::capture::open(&fixture("before")).expect("a directory with a q.xml");
    let Seen::Is(Answer::Nvml(theirs)) = notes.ask(&Question::Nvml) else { panic!("q.xml was not read") };
    let same = |gpu: &NvmlGpu, of: &NvmlGpu| NvmlGpu {
        // NVML alone has these, or they move, or nvidia-smi rounds them: see the tests above.
        compute_capability: of.compute_capability.clone(),
        temperature: of.temperature.clone(),
        power_draw: of.power_draw.clone(),
        memory_total: of.memory_total.clone(),
        memory_free: of.memory_free.clone(),
        memory_used: of.memory_used.clone(),
        memory_reserved: of.memory_reserved.clone(),
        bar1_total: of.bar1_total.clone(),
        // The recording is older than these: it says so, and not that the card has none.
        bar1_used: of.bar1_used.clone(),
        bar1_free: of.bar1_free.clone(),
        health: of.health.clone(),
        board: of.board.clone(),
        errors: of.errors.clone(),
        clocks: of.clocks.clone(),
        power: of.power.clone(),
        heat: of.heat.clone(),
        pcie: of.pcie.clone(),
        engines: of.engines.clone(),
        nvlink: of.nvlink.clone(),
        mig: of.mig.clone(),
        ..gpu.clone()
    };
    assert_eq!(report.gpus[0].health, Seen::Unreadable(model::Reason::NotCaptured));
    assert!(theirs.gpus[0].health.is_there());
    assert_eq!(same(&theirs.gpus[0], &report.gpus[0]), report.gpus[0]);
    assert_eq!((theirs.driver_version, theirs.cuda_version), (report.driver_version, report.cuda_version));
}
