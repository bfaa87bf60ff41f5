//! Plans for each engine's configuration: the bytes that they write, the second plan empty, the engine's own words.
#![allow(clippy::unwrap_used, reason = "a test may end by a panic")]

mod common;

use common::{apply, bare, device, docker, dpkg, good, running, texts, titles};
use container::{CRIO_DROP_IN, PODMAN_DROP_IN, observe, plan};
use model::{GpuRuntime, Intent, Op, Plan, ServiceVerb};

const DOCKER: &str = "/etc/docker/daemon.json";
const OURS: &str = "/usr/bin/thruway-runtime";

fn wish(engine: &str) -> Intent {
    Intent { engine: Some(engine.into()), runtime: Some(GpuRuntime::Thruway), ..Intent::default() }
}

fn planned(machine: &machine::Memory, intent: &Intent) -> Plan {
    let facts = observe(machine, &running());
    plan(&facts, intent)
}

fn verbs(plan: &Plan) -> Vec<(String, ServiceVerb)> {
    let verb = |op: &Op| match op {
        Op::Service { unit, verb } => Some((unit.clone(), *verb)),
        _ => None,
    };
    plan.changes.iter().filter_map(|change| verb(&change.op)).collect()
}

#[test]
fn docker_takes_thruways_runtime_by_a_reload() {
    let mut machine = good();
    machine.insert_file(OURS, b"\x7fELF");
    docker(&mut machine, "28.3.0", &["/etc/cdi"], "runc");
    let first = planned(&machine, &wish("docker"));
    // NVIDIA's hook has dockerd's name already, so nothing is to be found at a start.
    assert_eq!(
        titles(&first),
        ["name thruway's runtime nvidia", "let docker.service read its runtimes again; containers run on"]
    );
    assert_eq!(verbs(&first), [("docker.service".into(), ServiceVerb::Reload)]);
    assert!(first.changes.iter().all(|change| change.risk.is_empty()), "a reload costs nothing");
    let text = texts(&first)[0].1.clone();
    assert_eq!(text, common::DAEMON.replace("nvidia-container-runtime", "thruway-runtime"));
    apply(&mut machine, &first);
    assert!(planned(&machine, &wish("docker")).is_empty());
}

#[test]
fn docker_alone_gets_runtime_hook_name_and_default() {
    let mut machine = bare();
    for program in ["dockerd", "thruway-runtime"] {
        machine.insert_file(&format!("/usr/bin/{program}"), b"\x7fELF");
    }
    docker(&mut machine, "20.10.24", &[], "runc");
    let intent = Intent { default_runtime: true, ..wish("docker") };
    let first = planned(&machine, &intent);
    assert_eq!(first.refusals, []);
    let link = first.changes.iter().find_map(|change| match &change.op {
        Op::Link { path, target } => Some((path.as_str(), target.as_str())),
        _ => None,
    });
    assert_eq!(link, Some(("/usr/bin/nvidia-container-runtime-hook", OURS)));
    // dockerd looks for the hook at its start alone: a reload would leave `--gpus` refused.
    assert_eq!(verbs(&first), [("docker.service".into(), ServiceVerb::Restart)]);
    let text = texts(&first).into_iter().find(|(path, _)| path == DOCKER).unwrap().1;
    assert_eq!(
        text,
        "{\n  \"runtimes\": {\n    \"nvidia\": {\n      \"path\": \"/usr/bin/thruway-runtime\",\n      \"runtimeArgs\": []\n    \
         }\n  },\n  \"default-runtime\": \"nvidia\"\n}\n"
    );
    apply(&mut machine, &first);
    assert_eq!(titles(&planned(&machine, &intent)), Vec::<&str>::new());
}

#[test]
fn without_its_program_a_runtime_is_refused() {
    let refused = planned(&good(), &wish("docker"));
    assert!(refused.changes.is_empty() && refused.refusals[0].says.contains("thruway-runtime is not installed"));
    let mut machine = bare();
    machine.insert_file("/usr/bin/dockerd", b"\x7fELF");
    let intent = Intent { runtime: Some(GpuRuntime::Nvidia), ..Intent::default() };
    assert!(planned(&machine, &intent).refusals[0].instead.contains("--runtime thruway"));
}

#[test]
fn a_rootless_docker_has_a_file_of_its_own() {
    let mut machine = good();
    machine.insert_file(OURS, b"\x7fELF");
    machine.insert_file("/home/ann/.config/systemd/user/docker.service", b"[Service]\n");
    docker(&mut machine, "26.1.5", &["/etc/cdi"], "runc");
    let first = planned(&machine, &wish("docker"));
    let (path, text) = texts(&first).into_iter().find(|(path, _)| path.starts_with("/home")).unwrap();
    assert_eq!(path, "/home/ann/.config/docker/daemon.json");
    assert!(text.contains("\"cdi\": true") && text.contains(OURS), "{text}");
    assert!(
        first.notes.iter().any(|note| note.contains("as ann, systemctl --user restart docker")),
        "{:?}",
        first.notes
    );
}

fn containerd(version: &str, config: Option<&str>) -> machine::Memory {
    let mut machine = bare();
    for program in ["containerd", "thruway-runtime"] {
        machine.insert_file(&format!("/usr/bin/{program}"), b"\x7fELF");
    }
    dpkg(&mut machine, &[("containerd.io", version)]);
    if let Some(config) = config {
        machine.insert_file("/etc/containerd/config.toml", config.as_bytes());
    }
    machine
}

#[test]
fn containerd_is_written_in_the_form_that_its_version_reads() {
    for (version, form) in [("1.6.20-1", 2), ("1.7.24-1", 2), ("2.1.9-1", 3)] {
        let mut machine = containerd(version, None);
        let first = planned(&machine, &wish("containerd"));
        let (path, text) = texts(&first).into_iter().find(|(path, _)| path.contains("containerd")).unwrap();
        assert_eq!(path, "/etc/containerd/config.toml");
        assert!(text.starts_with(&format!("version = {form}\n")), "{version}: {text}");
        // Before 2.0 a table of runtimes replaces the built-in one, and with it the default.
        assert!(text.contains("containerd.runtimes.runc]"), "{text}");
        assert_eq!(text.contains("enable_cdi = true"), version.starts_with("1.7"), "{text}");
        assert!(first.notes.iter().any(|note| note.contains("RuntimeClass")), "{:?}", first.notes);
        apply(&mut machine, &first);
        assert_eq!(titles(&planned(&machine, &wish("containerd"))), Vec::<&str>::new(), "{version}");
    }
}

#[test]
fn what_rules_the_plugin_is_edited_and_not_the_main_file() {
    let main = "version = 2\nimports = [\"conf.d/*.toml\"]\n";
    let mut machine = containerd("1.7.24-1", Some(main));
    let drop_in = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia]\n  runtime_type = \
                   \"io.containerd.runc.v2\"\n  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia.options]\n    \
                   BinaryName = \"/usr/bin/nvidia-container-runtime\"\n";
    machine.insert_file("/etc/containerd/conf.d/99-nvidia.toml", drop_in.as_bytes());
    let first = planned(&machine, &wish("containerd"));
    let files = texts(&first);
    let (path, text) = files.iter().find(|(path, _)| path.contains("containerd")).unwrap();
    assert_eq!(path, "/etc/containerd/conf.d/99-nvidia.toml");
    assert!(
        text.contains("BinaryName = \"/usr/bin/thruway-runtime\"\n") && text.contains("enable_cdi = true"),
        "{text}"
    );
    apply(&mut machine, &first);
    assert!(planned(&machine, &wish("containerd")).is_empty());
}

#[test]
fn a_version_1_file_under_containerd_2_is_not_touched() {
    let machine = containerd("2.1.9-1", Some("[plugins.cri]\n  sandbox_image = \"pause\"\n"));
    let first = planned(&machine, &wish("containerd"));
    assert!(!texts(&first).iter().any(|(path, _)| path.contains("containerd")));
    assert!(first.notes.iter().any(|note| note.contains("config migrate")), "{:?}", first.notes);
}

#[test]
fn k3s_gets_a_template_in_its_form_and_no_second_table() {
    let dir = "/var/lib/rancher/k3s/agent/etc/containerd";
    let mut machine = bare();
    machine.insert_file(OURS, b"\x7fELF");
    machine.insert_file("/etc/systemd/system/k3s.service", b"[Service]\n");
    let generated = "version = 3\n[plugins.'io.containerd.cri.v1.runtime']\n  enable_cdi = true\n\
                     [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\n  SystemdCgroup = true\n";
    machine.insert_file(&format!("{dir}/config.toml"), generated.as_bytes());
    let first = planned(&machine, &wish("k3s"));
    let (path, text) = texts(&first).into_iter().find(|(path, _)| path.contains("rancher")).unwrap();
    assert_eq!(path, format!("{dir}/config-v3.toml.tmpl"));
    assert!(text.starts_with("{{ template \"base\" . }}\n\n[plugins.\"io.containerd.cri.v1.runtime\""), "{text}");
    assert!(text.ends_with("BinaryName = \"/usr/bin/thruway-runtime\"\n  SystemdCgroup = true\n"), "{text}");
    assert_eq!(verbs(&first), [("k3s.service".into(), ServiceVerb::Restart)]);
    apply(&mut machine, &first);
    assert_eq!(texts(&planned(&machine, &wish("k3s"))), []);
    // Found by k3s itself, the runtime is in the generated file: our table would be the second of its name.
    machine.insert_file("/usr/bin/nvidia-container-runtime", b"\x7fELF");
    assert_eq!(texts(&planned(&machine, &wish("k3s"))), []);
}

#[test]
fn crio_and_podman_have_drop_ins() {
    let mut machine = bare();
    for program in ["crio", "podman", "thruway-runtime"] {
        machine.insert_file(&format!("/usr/bin/{program}"), b"\x7fELF");
    }
    dpkg(&mut machine, &[("cri-o", "1.30.1-1"), ("podman", "4.3.1-1")]);
    let crio = planned(&machine, &Intent { default_runtime: true, ..wish("crio") });
    let text = texts(&crio).into_iter().find(|(path, _)| path == CRIO_DROP_IN).unwrap().1;
    assert!(
        text.contains("default_runtime = \"nvidia\"\n") && text.contains("runtime_path = \"/usr/bin/thruway-runtime\"")
    );
    assert_eq!(verbs(&crio), [("crio.service".into(), ServiceVerb::Restart)]);
    let podman = planned(&machine, &wish("podman"));
    let text = texts(&podman).into_iter().find(|(path, _)| path == PODMAN_DROP_IN).unwrap().1;
    assert!(text.ends_with("[engine.runtimes]\nnvidia = [\"/usr/bin/thruway-runtime\"]\n"), "{text}");
    assert_eq!(verbs(&podman), [], "podman has no daemon");
    apply(&mut machine, &podman);
    assert!(planned(&machine, &wish("podman")).is_empty());
    // For CDI alone, podman needs nothing but the spec, which is there by now.
    assert!(planned(&machine, &Intent { engine: Some("podman".into()), ..Intent::default() }).is_empty());
}

#[test]
fn nvidias_toolkit_is_replaced_and_comes_back() {
    let mut machine = good();
    machine.insert_file(OURS, b"\x7fELF");
    machine.insert_file("/etc/nvidia-container-runtime/config.toml", b"disable-require = true\n");
    let hook = "/usr/share/containers/oci/hooks.d/oci-nvidia-hook.json";
    machine.insert_file(hook, b"{\"hook\": {\"path\": \"/usr/bin/nvidia-container-runtime-hook\"}}");
    machine.insert_file("/etc/systemd/system/multi-user.target.wants/nvidia-cdi-refresh.path", b"[Path]\n");
    device(&mut machine, "/dev/null", 1, 3);
    let intent = Intent { replace_toolkit: true, ..Intent::default() };
    let first = planned(&machine, &intent);
    assert_eq!(
        titles(&first),
        [
            "stop nvidia-cdi-refresh.path",
            "let systemd no longer start nvidia-cdi-refresh.path, which writes NVIDIA's CDI spec",
            "take away NVIDIA's spec /etc/cdi/nvidia.json",
            "take away /usr/share/containers/oci/hooks.d/oci-nvidia-hook.json, which starts NVIDIA's hook in every container",
            "tell engines of 1 card and of driver 580.159.04 in a CDI spec",
            "answer dockerd as nvidia-container-runtime-hook, which docker run --gpus needs",
            "name thruway's runtime nvidia",
            "restart docker.service, which reads its configuration only then"
        ]
    );
    // Its package's file keeps the name in /usr/bin; ours is found before it.
    let link = first.changes.iter().find_map(|change| match &change.op {
        Op::Link { path, .. } => Some(path.as_str()),
        _ => None,
    });
    assert_eq!(link, Some("/usr/local/bin/nvidia-container-runtime-hook"));
    assert!(first.changes.iter().all(|change| change.undo != model::Undo::Irreversible));
    assert!(!texts(&first).iter().any(|(path, _)| path.contains("config.toml")), "its settings stay");
    // Without the word, both live side by side.
    assert!(planned(&machine, &Intent::default()).is_empty());
}
