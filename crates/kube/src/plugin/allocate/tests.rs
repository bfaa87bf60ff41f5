use std::cell::Cell;

use machine::{Memory, Missing};

use super::*;
use crate::plugin::config::{Imex, Replicate, Replicated, Sharing};
use crate::plugin::fixtures::{cut, found, gpus};
use crate::plugin::{MigStrategy, offer};

/// All is as it was offered, but what a test says.
struct World {
    change: Box<dyn Fn(&Device, &mut Live)>,
    specs: Seen<bool>,
    looks: Cell<u32>,
}

impl Present for World {
    fn live(&self, device: &Device) -> Live {
        self.looks.set(self.looks.get() + 1);
        let mut live = Live {
            driver: Seen::Is("nvidia".into()),
            uuid: Seen::Is(device.gpu.clone()),
            missing: None,
            promised: None,
        };
        (self.change)(device, &mut live);
        live
    }

    fn resolves(&self, name: &str) -> Seen<bool> {
        if name.contains("imex") { Seen::Is(false) } else { self.specs.clone() }
    }
}

fn well() -> World {
    but(|_, _| {})
}

fn but(change: impl Fn(&Device, &mut Live) + 'static) -> World {
    World { change: Box::new(change), specs: Seen::Is(true), looks: Cell::new(0) }
}

fn ids(resource: &Resource, count: usize) -> Vec<String> {
    resource.devices.iter().take(count).map(|device| device.id.clone()).collect()
}

fn of(config: &Config, node: &Found, count: usize, world: &World) -> Result<Answer, Refusal> {
    let resource = offer(config, node).expect("an offer").resources.remove(0);
    allocate(config, node, &resource, &ids(&resource, count), "a1", world)
}

fn strategies(list: &[ListStrategy]) -> Config {
    Config { list: list.iter().copied().collect(), ..Config::default() }
}

fn mounts(answer: &Answer) -> Vec<(&str, &str)> {
    answer.mounts.iter().map(|mount| (mount.host_path.as_str(), mount.container_path.as_str())).collect()
}

const A: &str = "GPU-00000000-0000-4000-8000-000000000000";
const B: &str = "GPU-00000000-0000-4000-8000-000000000001";

#[test]
fn by_cdi_names_alone() {
    let config = Config { pass_device_specs: true, ..Config::default() };
    let answer = of(&config, &gpus(2), 2, &well()).expect("an answer");
    let names = [format!("nvidia.com/gpu={A}"), format!("nvidia.com/gpu={B}")];
    assert_eq!(answer, Answer { cdi: names.into(), ..Answer::default() }, "and nothing else");
    let config = strategies(&[ListStrategy::CdiAnnotations]);
    let answer = of(&config, &gpus(2), 1, &well()).expect("an answer");
    let annotations = BTreeMap::from([("cdi.k8s.io/thruway_a1".to_owned(), format!("nvidia.com/gpu={A}"))]);
    assert_eq!(answer, Answer { annotations, ..Answer::default() });
    let config = Config { gds: true, mofed: true, ..Config::default() };
    let answer = of(&config, &gpus(1), 1, &well()).expect("an answer");
    assert_eq!(answer.cdi[1..], ["nvidia.com/gds=all", "nvidia.com/mofed=all"]);
    assert!(answer.envs.is_empty());
}

#[test]
fn by_the_environment_and_by_mounts() {
    let answer = of(&strategies(&[ListStrategy::Envvar]), &gpus(2), 2, &well()).expect("an answer");
    assert_eq!(answer.envs, BTreeMap::from([("NVIDIA_VISIBLE_DEVICES".to_owned(), format!("{A},{B}"))]));
    assert!(answer.cdi.is_empty() && answer.devices.is_empty() && answer.mounts.is_empty());
    let mut config = strategies(&[ListStrategy::VolumeMounts, ListStrategy::Envvar]);
    config.ids = IdStrategy::Index;
    config.imex = Imex { channels: vec![0], required: false };
    config.gdrcopy = true;
    let answer = of(&config, &gpus(2), 2, &well()).expect("an answer");
    let env = |name: &str| answer.envs.get(name).map(String::as_str);
    assert_eq!(env("NVIDIA_VISIBLE_DEVICES"), Some("/var/run/nvidia-container-devices"), "mounts stand over it");
    assert_eq!(
        (env("NVIDIA_IMEX_CHANNELS"), env("NVIDIA_GDRCOPY"), env("NVIDIA_GDS")),
        (Some("0"), Some("enabled"), None)
    );
    let wanted = ["0", "1", "imex/0"].map(|name| format!("/var/run/nvidia-container-devices/{name}"));
    let wanted: Vec<(&str, &str)> = wanted.iter().map(|path| ("/dev/null", path.as_str())).collect();
    assert_eq!(mounts(&answer), wanted);
    // a channel that is not there is left out
    let node = Found { imex: Vec::new(), ..gpus(1) };
    let answer = of(&config, &node, 1, &well()).expect("an answer");
    assert_eq!((answer.mounts.len(), answer.envs.contains_key("NVIDIA_IMEX_CHANNELS")), (1, false));
}

#[test]
fn device_nodes_too() {
    let mut config = strategies(&[ListStrategy::Envvar]);
    (config.pass_device_specs, config.mig) = (true, MigStrategy::Mixed);
    let node = found(vec![cut(3, &["1g.5gb"; 2])]);
    let paths = |config: &Config| {
        let answer = of(config, &node, 2, &well()).expect("an answer");
        assert!(answer.devices.iter().all(|node| node.permissions == "rw"));
        answer.devices.iter().map(|node| (node.host_path.clone(), node.container_path.clone())).collect::<Vec<_>>()
    };
    let names = ["nvidiactl", "nvidia-uvm", "nvidia3", "nvidia-caps/nvidia-cap300", "nvidia-caps/nvidia-cap301"];
    assert_eq!(
        paths(&config),
        names.map(|name| (format!("/dev/{name}"), format!("/dev/{name}"))),
        "the card's node once"
    );
    config.driver_root = "/run/nvidia/driver".into();
    assert_eq!(paths(&config)[0], ("/run/nvidia/driver/dev/nvidiactl".into(), "/dev/nvidiactl".into()));
    config.dev_root = Some("/".into());
    assert_eq!(paths(&config)[0].0, "/dev/nvidiactl");
}

#[test]
fn a_card_that_is_not_what_it_was_is_refused() {
    type Say = fn(&Device, &mut Live);
    let cases: [(Say, &str); 8] = [
        (|_, live| live.driver = Seen::Is("vfio-pci".into()), "the driver vfio-pci holds it now"),
        (|_, live| live.driver = Seen::Absent, "no driver holds it any more"),
        (|_, live| live.driver = Seen::Unreadable(Reason::TimedOut), "could not be seen"),
        (|_, live| live.uuid = Seen::Is("GPU-other".into()), "another card (GPU-other) sits at its address now"),
        (|_, live| live.uuid = Seen::Absent, "the driver knows no card at its address"),
        (|_, live| live.missing = Some("/dev/nvidia1".into()), "its node /dev/nvidia1 is not there any more"),
        (|_, live| live.promised = Some("vm:100".into()), "it is promised to vm:100"),
        // the second of the two alone
        (|device, live| live.promised = (device.index == "1").then(|| "host".into()), "promised to host"),
    ];
    for (change, wanted) in cases {
        let refusal = of(&Config::default(), &gpus(2), 2, &but(change)).expect_err(wanted);
        assert!(refusal.says.contains(wanted), "{refusal}");
    }
    // before its first use the driver does not tell the UUID
    let unused = but(|_, live| live.uuid = Seen::Unreadable(Reason::Other("unused".into())));
    assert!(of(&Config::default(), &gpus(2), 2, &unused).is_ok());
}

#[test]
fn a_name_that_no_spec_has_is_refused() {
    for specs in [Seen::Is(false), Seen::Absent, Seen::Unreadable(Reason::TimedOut)] {
        let world = World { specs, ..well() };
        let refusal = of(&Config::default(), &gpus(1), 1, &world).expect_err("no spec");
        assert!(
            refusal.says.contains("nvidia.com/gpu=GPU-") && refusal.fix.contains("thruway cdi refresh"),
            "{refusal}"
        );
        // who does not use CDI does not need it
        assert!(of(&strategies(&[ListStrategy::Envvar]), &gpus(1), 1, &world).is_ok());
    }
    let mut config = Config { imex: Imex { channels: vec![0], required: false }, ..Config::default() };
    assert_eq!(of(&config, &gpus(1), 1, &well()).map(|answer| answer.cdi.len()), Ok(1));
    config.imex.required = true;
    assert!(of(&config, &gpus(1), 1, &well()).expect_err("required").says.contains("nvidia.com/imex-channel=0"));
}

#[test]
fn what_is_asked_wrongly_is_refused() {
    let (config, node) = (Config::default(), gpus(2));
    let resource = offer(&config, &node).expect("an offer").resources.remove(0);
    let ask = |ids: &[&str]| {
        let ids: Vec<String> = ids.iter().map(|id| id.to_string()).collect();
        allocate(&config, &node, &resource, &ids, "a1", &well()).expect_err("refused").says
    };
    assert!(ask(&["GPU-\u{1b}[31m"]).contains("has no device \"GPU-\\u{1b}[31m\""));
    assert!(ask(&[A, A]).contains("is named twice"));
    assert!(ask(&[]).contains("no device"));
    assert!(ask(&[A, "all"]).contains("has no device \"all\""));
}

/// Two cards, three replicas each.
fn sharing(fail: bool) -> Config {
    let one = Replicated { name: "nvidia.com/gpu".into(), rename: None, devices: Replicate::All, replicas: 3 };
    let sharing = Sharing { fail_requests_greater_than_one: fail, resources: vec![one], ..Sharing::default() };
    Config { sharing: Some(sharing), ..Config::default() }
}

#[test]
fn replicas_of_a_card_are_the_card_once() {
    let world = well();
    let answer = of(&sharing(false), &gpus(2), 5, &world).expect("an answer");
    assert_eq!(answer.cdi, [format!("nvidia.com/gpu={A}"), format!("nvidia.com/gpu={B}")]);
    assert_eq!(world.looks.get(), 2);
    assert!(of(&sharing(true), &gpus(2), 1, &well()).is_ok());
    let refusal = of(&sharing(true), &gpus(2), 2, &well()).expect_err("two");
    assert!(refusal.fix.contains("nvidia.com/gpu: 1"), "{refusal}");
}

#[test]
fn what_a_machine_says_now() {
    let node = gpus(1);
    let device = offer(&Config::default(), &node).expect("an offer").resources.remove(0).devices.remove(0);
    let bdf = device.bdf;
    let machine = || {
        let mut machine = Memory::new("a machine").missing_as(Missing::Absent);
        machine.insert_link(&format!("/sys/bus/pci/devices/{bdf}/driver"), "../../../bus/pci/drivers/nvidia");
        let information = format!("Model: \t\t NVIDIA\nGPU UUID: \t {A}\nDevice Minor: \t 0\n");
        machine.insert_file(&format!("/proc/driver/nvidia/gpus/{bdf}/information"), information.as_bytes());
        machine.insert_file("/dev/nvidia0", b"");
        machine
    };
    let sound = Live { driver: Seen::Is("nvidia".into()), uuid: Seen::Is(A.into()), missing: None, promised: None };
    assert_eq!(live(&machine(), &device), sound);
    let promise = |uuid: Option<&str>, to: &str| {
        let mut machine = machine();
        let uuid = uuid.map_or("null".to_owned(), |uuid| format!("\"{uuid}\""));
        let gpu = format!("{{\"bdf\":\"{bdf}\",\"id\":\"10de:20b0\",\"subsystem\":null,\"uuid\":{uuid}}}");
        let text = format!("{{\"form\":1,\"gpu\":{gpu},\"name\":\"A100\",\"to\":\"{to}\"}}");
        machine.insert_file(&ledger::path(bdf), text.as_bytes());
        live(&machine, &device).promised
    };
    assert_eq!(promise(Some(A), "vm:100"), Some("vm:100".into()));
    assert_eq!(promise(None, "host"), Some("host".into()));
    assert_eq!(promise(Some(A), "pods"), None);
    assert_eq!(promise(Some(B), "vm:100"), None, "of another card that sat there");
    assert!(promise(Some(A), "nonsense").is_some_and(|who| who.contains("cannot be read")));
    let empty = live(&Memory::new("empty").missing_as(Missing::Absent), &device);
    assert_eq!((empty.driver, empty.uuid, empty.missing), (Seen::Absent, Seen::Absent, Some("/dev/nvidia0".into())));
    let mut unused = machine();
    let information = "GPU UUID: \t GPU-????????-????-????-????-????????????\n";
    unused.insert_file(&format!("/proc/driver/nvidia/gpus/{bdf}/information"), information.as_bytes());
    assert!(live(&unused, &device).uuid.unreadable().is_some());
}
