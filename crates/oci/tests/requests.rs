//! What containers ask for, in every form, and what the policy says to it.

use model::Capabilities;
use oci::config::Look;
use oci::policy::{self, Verdict};
use oci::request::{By, Extra, Gpus, Request, read};
use oci::settings::{ByEnv, Pods, Settings, Written};

fn config(env: &[&str], more: &str) -> String {
    let env: Vec<String> = env.iter().map(|entry| oci::json::quoted(entry)).collect();
    format!(r#"{{"ociVersion":"1.0.2","process":{{"env":[{}]}}{more}}}"#, env.join(","))
}

fn ask(env: &[&str], more: &str, settings: &Settings) -> Result<Option<Request>, String> {
    let text = config(env, more);
    let look = Look::at(&text).unwrap();
    read(&look, settings).map_err(|refused| refused.0)
}

fn gpus(env: &[&str]) -> Option<Gpus> {
    ask(env, "", &Settings::default()).unwrap().map(|request| request.gpus)
}

fn named(names: &[&str]) -> Option<Gpus> {
    Some(Gpus::Named(names.iter().map(|name| (*name).to_owned()).collect()))
}

#[test]
fn the_variable_in_all_its_forms() {
    assert_eq!(gpus(&[]), None);
    assert_eq!(gpus(&["NVIDIA_VISIBLE_DEVICES="]), None);
    assert_eq!(gpus(&["NVIDIA_VISIBLE_DEVICES=void"]), None);
    assert_eq!(gpus(&["NVIDIA_VISIBLE_DEVICES=0,void"]), None, "void anywhere");
    assert_eq!(gpus(&["NVIDIA_VISIBLE_DEVICES= , "]), None);
    assert_eq!(gpus(&["NVIDIA_VISIBLE_DEVICES=none"]), Some(Gpus::None));
    assert_eq!(gpus(&["NVIDIA_VISIBLE_DEVICES=all"]), Some(Gpus::All));
    assert_eq!(gpus(&["NVIDIA_VISIBLE_DEVICES=0,all"]), Some(Gpus::All));
    assert_eq!(gpus(&["NVIDIA_VISIBLE_DEVICES=0, 1,0"]), named(&["0", "1"]));
    assert_eq!(gpus(&["NVIDIA_VISIBLE_DEVICES=GPU-1234"]), named(&["GPU-1234"]));
    assert_eq!(gpus(&["NVIDIA_VISIBLE_DEVICES=0:1,MIG-77"]), named(&["0:1", "MIG-77"]));
    assert_eq!(gpus(&["NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=0"]), named(&["nvidia.com/gpu=0"]));
    assert_eq!(gpus(&["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=1"]), named(&["1"]), "the last one counts");
}

#[test]
fn an_old_image_says_it_with_its_cuda_version() {
    assert_eq!(gpus(&["CUDA_VERSION=8.0.61"]), Some(Gpus::All));
    assert_eq!(gpus(&["CUDA_VERSION=8.0.61", "NVIDIA_VISIBLE_DEVICES=void"]), None);
    assert_eq!(gpus(&["CUDA_VERSION=12.4.1", "NVIDIA_REQUIRE_CUDA=cuda>=12.4"]), None);
    let old = ask(&["CUDA_VERSION=8.0"], "", &Settings::default()).unwrap().unwrap();
    assert_eq!((old.by, old.capabilities), (By::OldImage, Capabilities::ALL));
    let set = ask(&["CUDA_VERSION=8.0", "NVIDIA_DRIVER_CAPABILITIES=utility"], "", &Settings::default());
    assert_eq!(set.unwrap().unwrap().capabilities.to_string(), "utility");
}

#[test]
fn capabilities_that_are_none_are_refused_with_the_list() {
    let of = |caps: &str, settings: &Settings| {
        let caps = format!("NVIDIA_DRIVER_CAPABILITIES={caps}");
        ask(&["NVIDIA_VISIBLE_DEVICES=0", &caps], "", settings).map(|r| r.unwrap().capabilities.to_string())
    };
    let some = Settings::read("supported-driver-capabilities='utility,video'", Written::Ours).unwrap();
    let all = Settings::default();
    assert_eq!(of("", &all).unwrap(), "compute,utility");
    assert_eq!(of("video , graphics", &all).unwrap(), "graphics,video");
    assert_eq!(of("all", &some).unwrap(), "utility,video");
    assert_eq!(of("", &some).unwrap(), "utility");
    let refused = of("utility,teapot", &all).unwrap_err();
    assert!(refused.contains("\"teapot\"") && refused.contains("compute, compat32, graphics"), "{refused}");
    let refused = of("compute", &some).unwrap_err();
    assert!(refused.contains("\"compute\"") && refused.contains("utility,video"), "{refused}");
}

const LIST: &str = r#","mounts":[{"destination":"/proc","source":"proc"},
    {"destination":"/var/run/nvidia-container-devices/GPU-1","source":"/dev/null"},
    {"destination":"/var/run/nvidia-container-devices/cdi/a.com/gpu/x","source":"/dev/null"},
    {"destination":"/var/run/nvidia-container-devices/cdi/a.com/gpu=y","source":"/dev/null"},
    {"destination":"/var/run/nvidia-container-devices/imex/7","source":"/dev/null"},
    {"destination":"/var/run/nvidia-container-devices/3","source":"/etc"}]"#;

#[test]
fn volume_mounts_are_a_list_where_they_are_accepted() {
    let accepts = Settings { accept_volume_mounts: true, ..Settings::default() };
    let asked = ask(&["NVIDIA_VISIBLE_DEVICES=all"], LIST, &accepts).unwrap().unwrap();
    assert_eq!(asked.by, By::Mounts);
    assert_eq!(Some(asked.gpus), named(&["GPU-1", "a.com/gpu=x", "a.com/gpu=y"]));
    assert_eq!((asked.imex, asked.imex_by_env), (vec![7], false));
    let env = ask(&["NVIDIA_VISIBLE_DEVICES=all"], LIST, &Settings::default()).unwrap().unwrap();
    assert_eq!((env.gpus, env.by), (Gpus::All, By::Env("NVIDIA_VISIBLE_DEVICES".into())));
}

#[test]
fn annotations_go_first_in_the_order_of_their_keys() {
    let more = format!(
        r#"{LIST},"annotations":{{"cdi.k8s.io/b":"x.com/gpu=2, x.com/gpu=3","other":"1","cdi.k8s.io/a":"x.com/gpu=1,x.com/gpu=2"}}"#
    );
    let accepts = Settings { accept_volume_mounts: true, ..Settings::default() };
    let asked = ask(&["NVIDIA_VISIBLE_DEVICES=void"], &more, &accepts).unwrap().unwrap();
    assert_eq!(asked.by, By::Annotations);
    assert_eq!(Some(asked.gpus), named(&["x.com/gpu=1", "x.com/gpu=2", "x.com/gpu=3"]));
    let bad = ask(&[], r#","annotations":{"cdi.k8s.io/a":"gpu0"}"#, &accepts).unwrap_err();
    assert!(bad.contains("cdi.k8s.io/a") && bad.contains("gpu0"), "{bad}");
}

#[test]
fn swarm_names_replace_the_variable() {
    let swarm = Settings { swarm_resource: vec!["DOCKER_RESOURCE_GPU".into()], ..Settings::default() };
    let asked = ask(&["NVIDIA_VISIBLE_DEVICES=all", "DOCKER_RESOURCE_GPU=GPU-2"], "", &swarm).unwrap().unwrap();
    assert_eq!(Some(asked.gpus), named(&["GPU-2"]));
    assert_eq!(ask(&["NVIDIA_VISIBLE_DEVICES=all"], "", &swarm).unwrap().unwrap().gpus, Gpus::All);
}

#[test]
fn channels_and_extras() {
    let of = |env: &str, more: &str| ask(&["NVIDIA_VISIBLE_DEVICES=0", env], more, &Settings::default());
    assert_eq!(of("NVIDIA_IMEX_CHANNELS=0,1048575", "").unwrap().unwrap().imex, [0, 1048575]);
    assert!(of("NVIDIA_IMEX_CHANNELS=all", "").unwrap().unwrap().imex.is_empty());
    assert!(of("NVIDIA_IMEX_CHANNELS=1048576", "").unwrap_err().contains("1048575"));
    assert!(of("NVIDIA_IMEX_CHANNELS=-1", "").is_err() && of("NVIDIA_IMEX_CHANNELS=+1", "").is_err());
    assert_eq!(of("NVIDIA_GDS=enabled", "").unwrap().unwrap().extras, [Extra::Gds]);
    assert!(of("NVIDIA_GDS=1", "").unwrap().unwrap().extras.is_empty());
    assert!(of("NVIDIA_MIG_CONFIG_DEVICES=all", "").unwrap_err().contains("CAP_SYS_ADMIN"));
    let text = r#"{"process":{"env":["NVIDIA_VISIBLE_DEVICES=0","NVIDIA_MIG_CONFIG_DEVICES=all"],
        "capabilities":{"bounding":["CAP_SYS_ADMIN"]}}}"#;
    let privileged = read(&Look::at(text).unwrap(), &Settings::default()).unwrap().unwrap();
    assert_eq!(privileged.extras, [Extra::MigConfig]);
    let ignoring = Settings { ignore_imex: true, ..Settings::default() };
    let ignored = ask(&["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_IMEX_CHANNELS=1"], "", &ignoring).unwrap().unwrap();
    assert!(ignored.imex.is_empty());
}

fn verdict(env: &str, more: &str, settings: &Settings) -> Verdict {
    let text = config(&[env], more);
    let look = Look::at(&text).unwrap();
    let request = read(&look, settings).unwrap().unwrap();
    policy::judge(&request, &look, settings, || look.nodes().unwrap())
}

const POD: &str = r#","annotations":{"io.kubernetes.cri.container-type":"container"}"#;
const GRANTED: &str = r#","annotations":{"io.kubernetes.cri.sandbox-id":"x"},
    "linux":{"devices":[{"path":"/dev/nvidia1"},{"path":"/dev/nvidiactl"}]}"#;

#[test]
fn the_policy_says_who_may_ask_by_environment() {
    let all = "NVIDIA_VISIBLE_DEVICES=all";
    let one = "NVIDIA_VISIBLE_DEVICES=GPU-1";
    let set = |unprivileged, pods| Settings { unprivileged, pods, ..Settings::default() };
    assert_eq!(verdict(all, "", &set(ByEnv::Allow, Pods::Refuse)), Verdict::Allow);
    assert!(matches!(verdict(all, "", &set(ByEnv::Ignore, Pods::Allow)), Verdict::Ignore(_)));
    let Verdict::Refuse(says) = verdict(all, "", &set(ByEnv::Refuse, Pods::Allow)) else { panic!("refused") };
    assert!(says.contains("--gpus") && says.contains("[policy]"), "{says}");
    // docker's own hook is docker's own word
    let hook = r#","hooks":{"prestart":[{"path":"/usr/bin/nvidia-container-runtime-hook"}]}"#;
    assert_eq!(verdict(all, hook, &set(ByEnv::Refuse, Pods::Allow)), Verdict::Allow);
    let podman = format!(r#"{hook},"annotations":{{"io.container.manager":"libpod"}}"#);
    assert!(matches!(verdict(all, &podman, &set(ByEnv::Refuse, Pods::Allow)), Verdict::Refuse(_)));
    // pods
    assert_eq!(verdict(all, POD, &set(ByEnv::Refuse, Pods::Allow)), Verdict::Allow);
    assert!(matches!(verdict(all, POD, &set(ByEnv::Allow, Pods::Refuse)), Verdict::Refuse(_)));
    assert!(matches!(verdict(all, POD, &set(ByEnv::Allow, Pods::Grant)), Verdict::Ignore(_)));
    let Verdict::Refuse(says) = verdict(one, POD, &set(ByEnv::Allow, Pods::Grant)) else { panic!("refused") };
    assert!(says.contains("GPU-1") && says.contains("device plugin"), "{says}");
    assert_eq!(verdict(all, GRANTED, &set(ByEnv::Allow, Pods::Grant)), Verdict::Only(vec!["/dev/nvidia1".into()]));
    // a pod's hook is no grant
    let both = format!("{hook}{POD}");
    assert!(matches!(verdict(all, &both, &set(ByEnv::Allow, Pods::Grant)), Verdict::Ignore(_)));
    // podman writes some of CRI-O's keys, and is no cluster
    let podman = r#","annotations":{"io.container.manager":"libpod","io.kubernetes.cri-o.Created":"now",
        "io.kubernetes.cri-o.SandboxID":"x","io.kubernetes.cri-o.TTY":"false"}"#;
    assert_eq!(verdict(all, podman, &set(ByEnv::Allow, Pods::Refuse)), Verdict::Allow);
}

#[test]
fn a_privileged_container_has_a_rule_of_its_own() {
    let text = r#"{"process":{"env":["NVIDIA_VISIBLE_DEVICES=all"],"capabilities":{"bounding":["CAP_SYS_ADMIN"]}}}"#;
    let look = Look::at(text).unwrap();
    let settings = Settings { unprivileged: ByEnv::Refuse, privileged: ByEnv::Allow, ..Settings::default() };
    let request = read(&look, &settings).unwrap().unwrap();
    assert_eq!(policy::judge(&request, &look, &settings, Vec::new), Verdict::Allow);
    let settings = Settings { privileged: ByEnv::Ignore, ..Settings::default() };
    let Verdict::Ignore(says) = policy::judge(&request, &look, &settings, Vec::new) else { panic!("ignored") };
    assert!(says.contains("a privileged"), "{says}");
}
