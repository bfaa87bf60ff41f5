//! What containers are given: names resolved over specs, edits applied, requirements judged.
#![allow(clippy::unwrap_used, reason = "a test")]

use formats::cdispec::{Device, DeviceNode, Edits, Hook, Mount, Spec};
use model::Capabilities;
use oci::apply::{ApplyError, Live, Way, apply, without_nvidia_hook};
use oci::config::Look;
use oci::request::{By, Gpus, Request};
use oci::require::{Card, Driver, Required};
use oci::resolve::{Chosen, SpecAt, Unresolved, resolve};
use proptest::prelude::*;
use serde_json::Value;

fn nodes(paths: &[&str]) -> Edits {
    let node = |path: &&str| DeviceNode { path: (*path).to_owned(), ..DeviceNode::default() };
    Edits { device_nodes: paths.iter().map(node).collect(), ..Edits::default() }
}

fn device(name: &str, paths: &[&str]) -> Device {
    Device { name: name.into(), container_edits: nodes(paths), ..Device::default() }
}

fn spec(path: &str, priority: usize, kind: &str, devices: Vec<Device>) -> SpecAt {
    let common = nodes(&["/dev/nvidiactl"]);
    let spec =
        Spec { cdi_version: "0.5.0".into(), kind: kind.into(), devices, container_edits: common, ..Spec::default() };
    SpecAt { path: path.into(), priority, spec }
}

fn two_cards() -> Vec<SpecAt> {
    let devices = vec![
        device("0", &["/dev/nvidia0"]),
        device("1", &["/dev/nvidia1"]),
        device("GPU-aa11", &["/dev/nvidia0"]),
        device("GPU-aa22", &["/dev/nvidia1"]),
        device("all", &["/dev/nvidia0", "/dev/nvidia1"]),
    ];
    vec![spec("/run/cdi/nvidia.com-gpu.json", 1, "nvidia.com/gpu", devices)]
}

fn request(gpus: Gpus) -> Request {
    Request {
        gpus,
        by: By::Env("NVIDIA_VISIBLE_DEVICES".into()),
        capabilities: Capabilities::ALL,
        imex: vec![],
        imex_by_env: false,
        extras: vec![],
    }
}

fn named<'s>(name: &str, specs: &'s [SpecAt], only: Option<&[String]>) -> Result<Chosen<'s>, Unresolved> {
    resolve(&request(Gpus::Named(vec![name.to_owned()])), "nvidia.com/gpu", specs, only)
}

#[test]
fn names_lead_to_devices() {
    let specs = two_cards();
    for (name, wanted) in [("1", "1"), ("GPU-aa2", "GPU-aa22"), ("nvidia.com/gpu=0", "0"), ("GPU-aa11", "GPU-aa11")] {
        let chosen = named(name, &specs, None).unwrap();
        assert_eq!(chosen.devices, [wanted]);
        assert_eq!(chosen.qualified, name.contains('='));
        assert_eq!(chosen.edits.len(), 2, "the device's and the common ones");
        assert_eq!(chosen.edits[1].device_nodes[0].path, "/dev/nvidiactl");
    }
    assert!(named("GPU-aa", &specs, None).unwrap_err().says.contains("more than one"));
    let unknown = named("7", &specs, None).unwrap_err();
    assert!(unknown.refresh && unknown.says.contains("0, 1, GPU-aa11"), "{unknown}");
    let none = named("0", &[], None).unwrap_err();
    assert!(none.refresh && none.says.contains("no CDI spec"), "{none}");
    let none = resolve(&request(Gpus::None), "nvidia.com/gpu", &specs, None).unwrap();
    assert!(none.devices.is_empty() && none.edits.len() == 1);
    assert_eq!(resolve(&request(Gpus::All), "nvidia.com/gpu", &specs, None).unwrap().devices, ["all"]);
}

#[test]
fn a_grant_gives_its_own_cards_only() {
    let specs = two_cards();
    let granted = ["/dev/nvidia1".to_owned()];
    let all = resolve(&request(Gpus::All), "nvidia.com/gpu", &specs, Some(&granted)).unwrap();
    assert_eq!(all.devices, ["1"]);
    assert_eq!(named("GPU-aa22", &specs, Some(&granted)).unwrap().devices, ["GPU-aa22"]);
    let other = named("0", &specs, Some(&granted)).unwrap_err();
    assert!(!other.refresh && other.says.contains("/dev/nvidia1"), "{other}");
}

#[test]
fn the_last_directory_wins_and_twins_in_one_are_a_conflict() {
    let old = spec("/etc/cdi/nvidia.yaml", 0, "nvidia.com/gpu", vec![device("0", &["/dev/old"])]);
    let theirs = spec("/var/run/cdi/nvidia.yaml", 1, "nvidia.com/gpu", vec![device("0", &["/dev/theirs"])]);
    let other = spec("/var/run/cdi/other.yaml", 1, "nvidia.com/gpu", vec![device("0", &["/dev/other"])]);
    let first = |specs: &[SpecAt]| named("0", specs, None).map(|c| c.edits[0].device_nodes[0].path.clone());
    assert_eq!(first(&[old.clone(), theirs.clone()]).unwrap(), "/dev/theirs");
    let conflict = first(&[theirs.clone(), other]).unwrap_err();
    assert!(conflict.says.contains("nvidia.yaml") && conflict.says.contains("other.yaml"), "{conflict}");
    let ours = two_cards().remove(0);
    assert_eq!(first(&[theirs, ours]).unwrap(), "/dev/nvidia0");
}

fn live(path: &str) -> Option<Live> {
    let minor = match path {
        "/dev/nvidia0" | "/host/nvidia0" => 0,
        "/dev/nvidia1" => 1,
        "/dev/nvidiactl" => 255,
        "/dev/nvidia-uvm" => return Some(Live { kind: 'c', major: 238, minor: 0 }),
        _ => return None,
    };
    Some(Live { kind: 'c', major: 195, minor })
}

const CONFIG: &str = r#"{"ociVersion":"1.3.0","x":{"y":[1e400,18446744073709551616, 1.0]},"process":{"user":{"uid":7,"gid":0},
"env":["PATH=/bin","NVIDIA_VISIBLE_DEVICES=all"],"future":{"a":1}},"mounts":[{"destination":"/a/b/c","source":"1"},
{"destination":"/proc","type":"proc","source":"proc","q":0.10},{"destination":"/usr/lib/libcuda.so.1","source":"old"}],
"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":9,"minor":9}],"resources":{"devices":
[{"allow":false,"access":"rwm"}],"unified":{"z":1}},"seccomp":{"k":[{}]}}}"#;

fn full() -> Edits {
    Edits {
        env: vec!["NVIDIA_VISIBLE_DEVICES=void".into(), "X=1".into()],
        device_nodes: vec![
            DeviceNode { path: "/dev/nvidia0".into(), file_mode: Some(438), ..DeviceNode::default() },
            DeviceNode {
                path: "/dev/nvidia-uvm".into(),
                major: Some(511),
                minor: Some(0),
                permissions: Some("rw".into()),
                gid: Some(44),
                ..DeviceNode::default()
            },
        ],
        mounts: vec![
            Mount {
                host_path: "/h/libcuda".into(),
                container_path: "/usr/lib/libcuda.so.1".into(),
                ..Mount::default()
            },
            Mount {
                host_path: "/h/smi".into(),
                container_path: "/usr/bin/nvidia-smi".into(),
                kind: Some("bind".into()),
                options: vec!["ro".into(), "rbind".into()],
            },
        ],
        hooks: vec![Hook {
            hook_name: "createContainer".into(),
            path: "/usr/bin/thruway-hook".into(),
            args: vec!["thruway-hook".into(), "create-container".into()],
            env: vec!["THRUWAY_HOOK=1".into()],
            timeout: Some(5),
        }],
        additional_gids: vec![0, 44],
        net_devices: vec![serde_json::json!({"hostInterfaceName":"eth7","name":"eth0"})],
        intel_rdt: Some(serde_json::json!({"closID":"a"})),
    }
}

#[test]
fn edits_are_applied_as_the_specification_has_them() {
    let edits = full();
    let applied = apply(CONFIG, &[&edits], Way::default(), &mut live).unwrap();
    let wanted = r#"{"ociVersion":"1.3.0","x":{"y":[1e400,18446744073709551616, 1.0]},"process":{"user":{"uid":7,"gid":0,"additionalGids":[44]},"env":["PATH=/bin","NVIDIA_VISIBLE_DEVICES=void","X=1"],"future":{"a":1}},"mounts":[{"destination":"/proc","type":"proc","source":"proc","q":0.10},{"destination":"/a/b/c","source":"1"},{"destination":"/usr/lib/libcuda.so.1","source":"/h/libcuda"},{"destination":"/usr/bin/nvidia-smi","type":"bind","source":"/h/smi","options":["ro","rbind"]}],"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195,"minor":0,"fileMode":438,"uid":7},{"path":"/dev/nvidia-uvm","type":"c","major":238,"minor":0,"uid":7,"gid":44}],"resources":{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":195,"minor":0,"access":"rwm"},{"allow":true,"type":"c","major":238,"minor":0,"access":"rw"}],"unified":{"z":1}},"seccomp":{"k":[{}]},"netDevices":{"eth7":{"name":"eth0"}},"intelRdt":{"closID":"a"}},"hooks":{"createContainer":[{"path":"/usr/bin/thruway-hook","args":["thruway-hook","create-container"],"env":["THRUWAY_HOOK=1"],"timeout":5}]}}"#;
    assert_eq!(applied.text, wanted);
    assert_eq!(applied.warnings.len(), 1);
    assert!(applied.warnings[0].contains("511:0") && applied.warnings[0].contains("238:0"), "{:?}", applied.warnings);
    let again = apply(&applied.text, &[&edits], Way::default(), &mut live).unwrap();
    assert_eq!(again.text, applied.text, "a second time changes nothing");
}

#[test]
fn capabilities_choose_the_mounts() {
    let edits = full();
    let way = Way { only: Some(Capabilities::parse("utility").unwrap()), ..Way::default() };
    let text = apply("{}", &[&edits], way, &mut live).unwrap().text;
    assert!(text.contains("nvidia-smi") && !text.contains("libcuda"), "{text}");
}

#[test]
fn a_user_namespace_may_have_its_mounts_mapped() {
    let config = r#"{"linux":{"namespaces":[{"type":"user"}]}}"#;
    let edits = full();
    let text = |config: &str, idmap| apply(config, &[&edits], Way { idmap, ..Way::default() }, &mut live).unwrap().text;
    assert!(text(config, true).contains(r#"["ro","rbind","idmap"]"#));
    assert!(!text(config, false).contains("idmap") && !text("{}", true).contains("idmap"));
}

#[test]
fn who_is_not_root_gets_nodes_as_mounts() {
    let edits = nodes(&["/dev/nvidia0"]);
    let way = Way { bind_nodes: true, ..Way::default() };
    let text = apply("{}", &[&edits], way, &mut live).unwrap().text;
    let wanted = r#"{"mounts":[{"destination":"/dev/nvidia0","source":"/dev/nvidia0","options":["bind","rprivate","nosuid","noexec"]}]}"#;
    assert_eq!(text, wanted, "no device, and no rule of a cgroup");
    let gone = apply("{}", &[&nodes(&["/dev/nvidia9"])], way, &mut live).unwrap_err();
    assert_eq!(gone, ApplyError::NoNode("/dev/nvidia9".into()));
}

#[test]
fn a_node_that_is_gone_is_an_error_and_never_a_number() {
    let mut edits = nodes(&["/dev/nvidia9"]);
    edits.device_nodes[0].major = Some(195);
    edits.device_nodes[0].minor = Some(9);
    let gone = apply("{}", &[&edits], Way::default(), &mut live).unwrap_err();
    assert_eq!(gone, ApplyError::NoNode("/dev/nvidia9".into()));
    let odd = Edits { hooks: vec![Hook { hook_name: "sometime".into(), ..Hook::default() }], ..Edits::default() };
    assert!(matches!(apply("{}", &[&odd], Way::default(), &mut live), Err(ApplyError::NoStage(_))));
}

#[test]
fn the_engines_hook_is_taken_out_and_no_other() {
    let text = r#"{"hooks":{"prestart":[{"path":"/x/other"},{"path":"/usr/bin/nvidia-container-toolkit","args":[]}],"poststop":[]}}"#;
    let without = without_nvidia_hook(text).unwrap().unwrap();
    assert_eq!(without, r#"{"hooks":{"prestart":[{"path":"/x/other"}],"poststop":[]}}"#);
    assert_eq!(without_nvidia_hook(&without).unwrap(), None);
    let only = r#"{"hooks":{"prestart":[{"path":"nvidia-container-runtime-hook"}]},"z":1}"#;
    assert_eq!(without_nvidia_hook(only).unwrap().unwrap(), r#"{"hooks":{},"z":1}"#);
}

fn judge(env: &[&str], driver: &Driver, cards: &[&Card]) -> Result<Option<String>, String> {
    let env: Vec<String> = env.iter().map(|entry| oci::json::quoted(entry)).collect();
    let text = format!(r#"{{"process":{{"env":[{}]}}}}"#, env.join(","));
    Required::of(&Look::at(&text).unwrap(), false).judge(driver, cards).map_err(|refused| refused.0)
}

#[test]
fn requirements_hold_or_say_which_does_not() {
    let driver = Driver::of_version("580.159.04");
    let h100 = Card { brand: Some("nvidia".into()), arch: Some("9.0".into()), ..Card::default() };
    let t4 = Card { brand: Some("tesla".into()), arch: Some("7.5".into()), ..Card::default() };
    let met = |text: &str, cards: &[&Card]| {
        let entry = format!("NVIDIA_REQUIRE_CUDA={text}");
        judge(&[&entry], &driver, cards)
    };
    for text in [
        "cuda>=12.4",
        "cuda>=13.0",
        "cuda=13",
        "cuda<13.1",
        "driver>=580.159",
        "driver!=580",
        "cuda>=99 driver>=500",
        "",
    ] {
        assert_eq!(met(text, &[&h100]), Ok(None), "{text}");
    }
    for text in [
        "cuda>=13.1",
        "cuda>13.0",
        "driver<580.159.04",
        "cuda>=12.4,driver<500",
        "brand=tesla",
        "arch<9",
        "brand!=nvidia",
    ] {
        assert!(met(text, &[&h100]).is_err(), "{text}");
    }
    assert!(met("arch>=8.0", &[&h100, &t4]).is_err(), "every card has to meet it");
    let says = met("cuda>=13.1,driver>=590 brand=tesla,cuda>=14,driver>=600", &[&h100]).unwrap_err();
    assert!(says.starts_with("this image requires cuda>=13.1 (NVIDIA_REQUIRE_CUDA), and driver 580.159.04 on this machine supports CUDA 13.0"), "{says}");
    assert!(says.contains("NVIDIA_DISABLE_REQUIRE=1") && says.contains("1 other"), "{says}");
    let two = ["NVIDIA_REQUIRE_CUDA=cuda>=12", "NVIDIA_REQUIRE_DRIVER=driver>=590"];
    assert!(judge(&two, &driver, &[]).unwrap_err().contains("NVIDIA_REQUIRE_DRIVER"));
    assert_eq!(judge(&["NVIDIA_REQUIRE_CUDA=cuda>=99", "NVIDIA_DISABLE_REQUIRE=true"], &driver, &[]), Ok(None));
    assert_eq!(judge(&["NVIDIA_REQUIRE_JETPACK=csv-mounts=all"], &driver, &[]), Ok(None));
    assert!(judge(&["CUDA_VERSION=99.1.2"], &driver, &[]).unwrap_err().contains("cuda>=99.1"));
    for text in ["tea>=1", "cuda", "cuda>=x", "brand>=tesla", "cuda>=", "=1"] {
        assert!(met(text, &[]).unwrap_err().contains("no requirement"), "{text}");
    }
}

#[test]
fn what_is_not_known_decides_nothing() {
    let driver = Driver::of_version("580.1");
    let one = |text: &str| judge(&[&format!("NVIDIA_REQUIRE_CUDA={text}")], &driver, &[]);
    assert_eq!(one("cuda>=12 brand=tesla"), Ok(None), "settled without the brand");
    assert!(one("brand=tesla,cuda>=12").unwrap().unwrap().contains("could not be judged"));
    assert!(one("brand=tesla,cuda>=99").is_err(), "broken whatever the brand is");
    assert_eq!(Driver::of_version("999.1").cuda.as_deref(), Some("13.1"));
    assert_eq!(Driver::of_version("x").cuda, None);
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~\\p{L}]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z\"\\\\é]{0,5}", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_panics_on_any_text(text in "[\\[\\]{}\",:a-z0-9\\\\ \n]{0,60}") {
        let _ = Look::at(&text);
        let _ = apply(&text, &[&full()], Way::default(), &mut live);
        let _ = without_nvidia_hook(&text);
        let entry = format!("NVIDIA_REQUIRE_X={text}");
        let _ = judge(&[&entry], &Driver::of_version(&text), &[]);
        let _ = oci::settings::Settings::read(&text, oci::settings::Written::Ours);
    }

    #[test]
    fn unknown_fields_stay_and_applying_twice_is_applying_once(
        top in json(), process in json(), linux in json(), pretty in any::<bool>()
    ) {
        let config = serde_json::json!({
            "unknown": top, "process": { "unknown": process, "env": ["A=1"] }, "linux": { "unknown": linux }
        });
        let text = if pretty { serde_json::to_string_pretty(&config).unwrap() } else { config.to_string() };
        let once = apply(&text, &[&full()], Way::default(), &mut live).unwrap().text;
        let read: Value = serde_json::from_str(&once).unwrap();
        prop_assert_eq!(&read["unknown"], &config["unknown"]);
        prop_assert_eq!(&read["process"]["unknown"], &config["process"]["unknown"]);
        prop_assert_eq!(&read["linux"]["unknown"], &config["linux"]["unknown"]);
        let twice = apply(&once, &[&full()], Way::default(), &mut live).unwrap().text;
        prop_assert_eq!(once, twice);
    }
}
