use proptest::prelude::*;

use super::*;
use crate::MachineExt as _;

fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("has one")).expect("its directory");
        std::fs::write(path, text).expect("writes");
    }
    dir
}

#[test]
fn a_tree_with_notes_beside_it() {
    let notes = dir(&[
        ("proc/driver/nvidia/version", "NVRM version: 510.54\n"),
        (
            "driver-files.txt",
            "-rwxr-xr-x 524 /usr/bin/nvidia-smi -> \nlrwxrwxrwx 3 /lib -> usr/lib\ndrwxr-xr-x 9 /usr/bin -> \ndrwxr-xr-x 3 /opt/none -> \n",
        ),
        (
            "dev-nvidia.txt",
            "crw-rw-rw-  1 root root 195,   0 Nov 24 00:27 nvidia0\n/dev/nvidia-caps:\ncr-------- 1 root root 241, 1 Nov 24 00:27 nvidia-cap1\n",
        ),
        ("ldcache.txt", "1 libs found in cache `/etc/ld.so.cache'\n\tlibz.so.1 (libc6,x86-64) => /lib/libz.so.1\n"),
    ]);
    std::os::unix::fs::symlink("/etc/passwd", notes.path().join("proc/self")).expect("a link");
    let memory = from_dir(notes.path()).expect("notes");
    assert_eq!(memory.text("/proc/driver/nvidia/version"), Seen::Is("NVRM version: 510.54\n".into()));
    let wrapper = memory.stat("/usr/bin/nvidia-smi").is().expect("is listed");
    assert_eq!((wrapper.size, wrapper.mode, wrapper.kind), (524, 0o755, FileKind::File));
    assert_eq!(memory.read("/usr/bin/nvidia-smi"), Seen::Unreadable(Reason::NotCaptured));
    assert_eq!(memory.list("/usr/bin"), Seen::Is(vec!["nvidia-smi".into()]));
    assert!(memory.is_dir("/opt/none") && memory.list("/opt/none").unreadable().is_some());
    assert_eq!(memory.link("/lib"), Seen::Is("usr/lib".into()));
    assert_eq!(memory.link("/proc/self"), Seen::Is("/etc/passwd".into()));
    assert_eq!(memory.read("/proc/self"), Seen::Unreadable(Reason::NotCaptured));
    assert_eq!(memory.stat("/dev/nvidia0").is().and_then(|stat| stat.rdev), Some((195, 0)));
    let cap = memory.stat("/dev/nvidia-caps/nvidia-cap1").is().expect("is listed");
    assert_eq!((cap.rdev, cap.mode), (Some((241, 1)), 0o400));
    let cache = Cache::parse(&memory.read("/etc/ld.so.cache").is().expect("is made")).expect("our own");
    assert_eq!(cache.entries[0].path, "/lib/libz.so.1");
    assert_eq!(memory.stat("/etc/passwd"), Seen::Unreadable(Reason::NotCaptured));
    assert_eq!(memory.ask(&Question::Nvml), Seen::Unreadable(Reason::NotCaptured));
}

#[test]
fn says_what_is_no_note() {
    let empty = dir(&[("readme", "hello")]);
    assert!(from_dir(empty.path()).expect_err("is nothing").to_string().contains("is no capture"));
    for (name, text, want) in [
        ("driver-files.txt", "-rwxr-xr-x 1 /a -> \nhello\n", "line 2"),
        ("ldcache.txt", "hello\n", "line 1"),
        ("q.xml", "<nvidia_smi_log>\n<gpu>\n", "ends inside"),
    ] {
        let notes = dir(&[("proc/x", ""), (name, text)]);
        let error = from_dir(notes.path()).expect_err("is broken").to_string();
        assert!(error.contains(name) && error.contains(want), "{error}");
    }
}

#[test]
fn not_available_is_absent_and_not_printed_is_not_recorded() {
    let xml = "<nvidia_smi_log><driver_version>510.54</driver_version><gpu id=\"00000000:01:00.0\">\
<product_name>NVIDIA GeForce GT 1030</product_name><serial>N/A</serial><fan_speed>38 %</fan_speed>\
<power_readings><power_draw>N/A</power_draw><power_limit>30.00 W</power_limit></power_readings>\
<mig_mode><current_mig>N/A</current_mig></mig_mode><fb_memory_usage><total>2048 MiB</total><used>[Unknown Error]</used>\
</fb_memory_usage><processes><process_info><pid>1719</pid><type>C</type><process_name>ffmpeg</process_name>\
<used_memory>949 MiB</used_memory></process_info></processes></gpu></nvidia_smi_log>";
    let notes = dir(&[("q.xml", xml)]);
    let Seen::Is(Answer::Nvml(report)) = from_dir(notes.path()).expect("notes").ask(&Question::Nvml) else {
        panic!("no report")
    };
    let gpu = &report.gpus[0];
    assert_eq!(gpu.bus_id, Seen::Is("00000000:01:00.0".into()));
    assert_eq!((gpu.serial.clone(), gpu.mig_enabled.clone()), (Seen::Absent, Seen::Absent));
    assert_eq!((gpu.power_draw.clone(), gpu.power_limit.clone()), (Seen::Absent, Seen::Is(30_000)));
    assert_eq!((gpu.fan.clone(), gpu.memory_total.clone()), (Seen::Is(38), Seen::Is(2 << 30)));
    assert!(matches!(gpu.memory_used, Seen::Unreadable(Reason::Other(_))));
    assert_eq!(gpu.vbios, Seen::Unreadable(Reason::NotCaptured));
    let processes = gpu.processes.get().expect("one");
    assert_eq!((processes[0].pid, processes[0].memory.clone()), (1719, Seen::Is(949 << 20)));
}

#[test]
fn modes_as_ls_prints_them() {
    assert_eq!(permissions("-rwsr-xr-t"), Some(0o5755));
    assert_eq!(permissions("drwxrws--T+"), Some(0o3770));
    assert_eq!(permissions("-rwx"), None);
    assert_eq!(permissions("-xwrxwrxwr"), None);
}

proptest! {
    #[test]
    fn any_line_is_listed_or_not(line in "[ -~]{0,80}") {
        if let Some((path, _)) = listed(&line) {
            prop_assert!(path.starts_with('/') && line.contains(path));
        }
        if let Some((name, stat)) = device(&line) {
            prop_assert!(stat.rdev.is_some() && line.contains(name));
        }
    }
}
