//! The table, and `-L`.

use std::fmt::Write as _;

use machine::nvml::{NvmlGpu, NvmlMigDevice};
use model::Seen;

use super::{Smi, clean, either, error, mib, na, of, program};

/// How a branch's table is laid out.
struct Layout {
    /// Inner width of the box, and of the first two columns.
    width: usize,
    first: usize,
    second: usize,
    /// The first line below the title begins with a bar.
    bar: bool,
    /// Spaces on the line above the processes.
    gap: usize,
    /// Characters of a name, and with what follows it.
    name: usize,
    name_room: usize,
    /// From the performance state to the power's end, and the limit's width.
    power: usize,
    limit: usize,
    /// Before the address.
    bus: usize,
    /// Used and total memory.
    used: usize,
    total: usize,
}

fn layout(branch: u32) -> Layout {
    match branch {
        0..530 => Layout {
            width: 77,
            first: 31,
            second: 22,
            bar: true,
            gap: 79,
            name: 18,
            name_room: 20,
            power: 9,
            limit: 4,
            bus: 1,
            used: 9,
            total: 8,
        },
        530..550 => Layout {
            width: 87,
            first: 41,
            second: 22,
            bar: true,
            gap: 89,
            name: 27,
            name_room: 31,
            power: 19,
            limit: 4,
            bus: 1,
            used: 9,
            total: 8,
        },
        _ => Layout {
            width: 89,
            first: 41,
            second: 24,
            bar: branch < 580,
            gap: if branch < 580 { 89 } else { 0 },
            name: 27,
            name_room: 31,
            power: 18,
            limit: 5,
            bus: 3,
            used: 10,
            total: 9,
        },
    }
}

const THIRD: usize = 22;

/// What the tool prints without arguments.
pub fn table(smi: &Smi<'_>) -> String {
    let branch = smi.branch();
    let it = layout(branch);
    let mut out = format!("{}       \n", smi.time);
    let rule = |c: char, n: usize| c.to_string().repeat(n);
    let edge = format!("+{}+", rule('-', it.width));
    let split = |left: char, c: char, right: char| {
        format!("{left}{}+{}+{}{right}", rule(c, it.first), rule(c, it.second), rule(c, THIRD))
    };
    let row = |a: String, b: String, c: String| {
        format!("|{a:<first$}|{b:<second$}|{c:<THIRD$}|", first = it.first, second = it.second)
    };
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    line(edge.clone());
    line(format!("|{:<width$}|", title(smi, branch), width = it.width));
    line(split(if it.bar { '|' } else { '+' }, '-', '+'));
    let [names, units, last] = head(branch);
    line(row(names.0.into(), names.1.into(), names.2.into()));
    line(row(units.0.into(), units.1.into(), units.2.into()));
    line(row(String::new(), String::new(), last.2.into()));
    line(split('|', '=', '|'));
    for gpu in smi.gpus() {
        for [a, b, c] in rows(gpu, &it) {
            line(row(a, b, c));
        }
        line(split('+', '-', '+'));
    }
    let cut: Vec<(&NvmlGpu, &[NvmlMigDevice])> = smi
        .gpus()
        .filter_map(|gpu| Some((gpu, gpu.mig.get()?.devices.get()?.as_slice())))
        .filter(|it| !it.1.is_empty())
        .collect();
    if !cut.is_empty() {
        out.push('\n');
        out.push_str(&parts(&cut, branch, &edge, it.width));
    }
    let _ = writeln!(out, "{}", " ".repeat(it.gap));
    out.push_str(&processes(smi, branch, &edge, it.width));
    out
}

fn title(smi: &Smi<'_>, branch: u32) -> String {
    let driver = na(&smi.report.driver_version);
    let cuda = na(&smi.report.cuda_version.as_ref().map(|(major, minor)| format!("{major}.{minor}")));
    match branch {
        0..530 => format!(" NVIDIA-SMI {driver:<13}Driver Version: {driver:<13}CUDA Version: {cuda}"),
        530..550 => format!(" NVIDIA-SMI {driver:<23}Driver Version: {driver:<13}CUDA Version: {cuda}"),
        550..610 => format!(" NVIDIA-SMI {driver:<23}Driver Version: {driver:<15}CUDA Version: {cuda}"),
        _ => format!(" NVIDIA-SMI {driver:<23}KMD Version: {driver:<14}CUDA UMD Version: {cuda}"),
    }
}

type Triple = (&'static str, &'static str, &'static str);

fn head(branch: u32) -> [Triple; 3] {
    let last = ("", "", "               MIG M. ");
    let third = (" Volatile Uncorr. ECC ", " GPU-Util  Compute M. ");
    match branch {
        0..530 => [
            (" GPU  Name        Persistence-M", " Bus-Id        Disp.A ", third.0),
            (" Fan  Temp  Perf  Pwr:Usage/Cap", "         Memory-Usage ", third.1),
            last,
        ],
        530..550 => [
            (" GPU  Name                 Persistence-M ", " Bus-Id        Disp.A ", third.0),
            (" Fan  Temp   Perf          Pwr:Usage/Cap ", "         Memory-Usage ", third.1),
            last,
        ],
        _ => [
            (" GPU  Name                 Persistence-M ", " Bus-Id          Disp.A ", third.0),
            (" Fan  Temp   Perf          Pwr:Usage/Cap ", "           Memory-Usage ", third.1),
            last,
        ],
    }
}

/// A value of the table; what could not be read is "ERR!".
fn cell<T: std::fmt::Display>(seen: &Seen<T>) -> String {
    match seen {
        Seen::Is(value) => clean(&value.to_string()),
        Seen::Absent => "N/A".into(),
        Seen::Unreadable(reason) if error(reason) == "N/A" => "N/A".into(),
        Seen::Unreadable(_) => "ERR!".into(),
    }
}

fn rows(gpu: &NvmlGpu, it: &Layout) -> [[String; 3]; 3] {
    let lost = gpu.name.unreadable().is_some();
    let err = |text: String| if lost { "ERR!".into() } else { text };
    let mut name = cell(&gpu.name);
    if name.chars().count() > it.name {
        name = name.chars().take(it.name - 3).chain("...".chars()).collect();
    }
    let on = |seen: &Seen<bool>| err(cell(&seen.as_ref().map(|on| if *on { "On" } else { "Off" })));
    let ecc = match (&gpu.mig_enabled, &gpu.ecc_enabled) {
        // a card that is cut up counts in its parts
        (Seen::Is(true), Seen::Is(true)) => "On".into(),
        (_, Seen::Is(false)) => "Off".into(),
        _ => err(cell(&gpu.ecc_uncorrected_volatile)),
    };
    let first = [
        format!("{:>4}  {name:<room$}{:<3} ", gpu.index, on(&gpu.persistence), room = it.name_room),
        format!("{:bus$}{} {:>3} ", "", cell(&gpu.bus_id), on(&gpu.display_active), bus = it.bus),
        format!(" {ecc:>20} "),
    ];
    let fan = err(cell(&gpu.fan.as_ref().map(|speed| format!("{speed}%"))));
    let heat = err(cell(&gpu.temperature.as_ref().map(|heat| format!("{heat}C"))));
    let pstate = err(cell(&gpu.pstate.as_ref().map(|state| format!("P{state}"))));
    let watts = |seen: &Seen<u32>| err(cell(&seen.as_ref().map(|mw| format!("{}W", mw / 1000))));
    let average = either(of(&gpu.power, |power| &power.average), || gpu.power_draw.clone());
    let draw = watts(&if average.is_there() { average } else { gpu.power_draw.clone() });
    let power = it.power.saturating_sub(pstate.len());
    let room = |seen: &Seen<u64>| err(cell(&mib(seen).map(|mib| format!("{mib}MiB"))));
    let second = [
        format!(
            " {fan:>3}  {heat:>4}    {pstate}{draw:>power$} / {:>limit$} ",
            watts(&gpu.power_limit),
            limit = it.limit
        ),
        format!(
            " {:>used$} / {:>total$} ",
            room(&gpu.memory_used),
            room(&gpu.memory_total),
            used = it.used,
            total = it.total
        ),
        format!(
            " {:>7} {:>12} ",
            err(cell(&gpu.utilization_gpu.as_ref().map(|use_of| format!("{use_of}%")))),
            compute(&err(cell(&gpu.compute_mode)))
        ),
    ];
    let mig = err(cell(&gpu.mig_enabled.as_ref().map(|on| if *on { "Enabled" } else { "Disabled" })));
    [first, second, [String::new(), String::new(), format!(" {mig:>20} ")]]
}

/// The table's own short forms.
fn compute(mode: &str) -> &str {
    match mode {
        "Exclusive_Process" => "E. Process",
        "Exclusive_Thread" => "E. Thread",
        other => other,
    }
}

fn parts(cut: &[(&NvmlGpu, &[NvmlMigDevice])], branch: u32, edge: &str, width: usize) -> String {
    // (width of the memory column, used, spaces behind, second row's)
    let (memory, used, after, used_bar, after_bar) = match branch {
        0..530 => (22, 10, 1, 10, 1),
        530..550 => (32, 19, 2, 19, 2),
        _ => (34, 19, 4, 21, 2),
    };
    let rule = |left: char, c: char| {
        let part = |n: usize| c.to_string().repeat(n);
        format!("{left}{}+{}+{}+{}{left}\n", part(18), part(memory), part(11), part(23))
    };
    let row = |a: &str, b: String, c: &str, d: &str| format!("|{a:<18}|{b:<memory$}|{c:<11}|{d:<23}|\n");
    let right = |text: &str| format!("{text:>room$} ", room = memory - 1);
    let mut out = format!("{edge}\n|{:<width$}|\n{}", " MIG devices:", rule('+', '-'));
    let (engines, shared) = if branch < 530 {
        (" CE  ENC  DEC  OFA  JPG", "         Shared        ")
    } else {
        (" CE ENC DEC OFA JPG    ", "      Shared           ")
    };
    out.push_str(&row(" GPU  GI  CI  MIG ", right("Memory-Usage"), "        Vol", shared));
    out.push_str(&row("      ID  ID  Dev ", right("BAR1-Usage"), " SM     Unc", engines));
    out.push_str(&row("", String::new(), "        ECC", ""));
    out.push_str(&rule('|', '='));
    for (gpu, devices) in cut {
        for device in *devices {
            let size = |seen: &Seen<u64>| cell(&mib(seen).map(|mib| format!("{mib}MiB")));
            let ids = format!(
                "{:>3}{:>5}{:>4}{:>4}  ",
                gpu.index,
                cell(&device.gpu_instance),
                cell(&device.compute_instance),
                device.index
            );
            let line = |now: &Seen<u64>, total: &Seen<u64>, used: usize, after: usize| {
                format!("{:>used$} / {:>8}{:after$}", size(now), size(total), "")
            };
            let engines = format!(
                "{:>3}{:>4}{:>5}{:>5}{:>5} ",
                cell(&device.copy_engines),
                cell(&device.encoders),
                cell(&device.decoders),
                cell(&device.ofas),
                cell(&device.jpegs)
            );
            let errors = format!("{:>3}{:>7} ", cell(&device.multiprocessors), cell(&device.sram_uncorrected));
            out.push_str(&row(&ids, line(&device.memory_used, &device.memory_total, used, after), &errors, &engines));
            out.push_str(&row("", line(&device.bar1_used, &device.bar1_total, used_bar, after_bar), "", ""));
            out.push_str(&rule('+', '-'));
        }
    }
    out
}

fn processes(smi: &Smi<'_>, branch: u32, edge: &str, width: usize) -> String {
    // (width of the PID, of the name): the rest is fixed
    let (pid, name) = match branch {
        0..530 => (10, 28),
        530..550 => (10, 38),
        550..580 => (10, 40),
        _ => (16, 34),
    };
    let mut out = format!("{edge}\n");
    let mut line = |text: &str| {
        let _ = writeln!(out, "|{text:<width$}|");
    };
    line(" Processes:");
    let room = width - 26 - pid;
    line(&format!(
        "  GPU   GI   CI{:>at$}   Type   Process name{:>room$} ",
        "PID",
        "GPU Memory",
        at = pid + 1,
        room = room - 16 + 3
    ));
    line(&format!("        ID   ID{:>room$} ", "Usage     ", room = width - 16));
    line(&"=".repeat(width));
    let mut any = false;
    for gpu in smi.gpus() {
        for process in gpu.processes.get().into_iter().flatten() {
            any = true;
            let text = shortened(&program(&process.name), name);
            line(&format!(
                "{:>5}   {:>3}  {:>3}{:>pid$}{:>7}   {text:<name$}{:>12} ",
                gpu.index,
                cell(&process.gpu_instance),
                cell(&process.compute_instance),
                process.pid,
                clean(&process.kind),
                cell(&mib(&process.memory).map(|mib| format!("{mib}MiB"))),
            ));
        }
    }
    if !any {
        line("  No running processes found");
    }
    let _ = writeln!(out, "{edge}");
    out
}

/// The end of a long name says more than its beginning.
fn shortened(text: &str, room: usize) -> String {
    let count = text.chars().count();
    if count <= room {
        return text.to_owned();
    }
    "...".chars().chain(text.chars().skip(count - (room - 3))).collect()
}

/// `-L`: each GPU and its MIG devices by name and UUID.
pub fn devices(smi: &Smi<'_>) -> String {
    let mut out = String::new();
    for gpu in smi.gpus() {
        if let Some(reason) = gpu.name.unreadable() {
            let _ = write!(
                out,
                "Unable to determine the device handle for gpu {}: {}\n\n\n",
                gpu.index,
                super::lost(reason)
            );
            continue;
        }
        let _ = writeln!(out, "GPU {}: {} (UUID: {})", gpu.index, na(&gpu.name), na(&gpu.uuid));
        let devices = gpu.mig.get().and_then(|mig| mig.devices.get()).map_or(&[][..], Vec::as_slice);
        for device in devices {
            let _ = writeln!(
                out,
                "  MIG {:<12}Device {:>2}: (UUID: {})",
                na(&device.profile),
                device.index,
                na(&device.uuid)
            );
        }
    }
    out
}
