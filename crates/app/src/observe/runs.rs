//! What runs Jellyfin: containers of docker and podman, and Deployments of the cluster.

use machine::{Engine, KubeList, Machine, MachineExt, Question};
use model::Seen;
use serde::Serialize;
use serde_json::Value;

use super::Owner;

/// One container that runs Jellyfin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    pub kind: RunKind,
    /// The container's name, or "namespace/name" of the Deployment.
    pub name: String,
    pub image: String,
    /// Directories of this machine that are mounted as its /config.
    pub config_dirs: Vec<String>,
    /// NVIDIA_DRIVER_CAPABILITIES. Absent: not set where it was looked for. For a Deployment the image's own
    /// environment cannot be seen.
    pub capabilities: Seen<String>,
    /// NVIDIA_VISIBLE_DEVICES.
    pub visible: Seen<String>,
    /// The user it runs as, where that is not root.
    pub user: Option<User>,
    /// It is given a GPU in one of the known ways.
    pub gpu: bool,
    /// The question that showed it.
    pub asked: &'static str,
}

/// A container's user, with the groups that it is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// "1000:1000".
    pub text: String,
    /// By number; none: a name, which its image knows.
    pub uid: Option<u32>,
    pub gids: Vec<u32>,
    /// A group by its name, which its image knows.
    pub named: bool,
}

impl User {
    /// "1000", "1000:1000", "media"; none for root. `more`: the groups added to it.
    fn read(text: &str, more: &[Value]) -> Option<User> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        if matches!(user, "" | "0" | "root") {
            return None;
        }
        let groups: Vec<&str> = group.into_iter().chain(more.iter().filter_map(Value::as_str)).collect();
        let gids: Vec<u32> = groups.iter().filter_map(|group| group.parse().ok()).collect();
        let named = group.is_none() || gids.len() < groups.len();
        Some(User { text: text.to_owned(), uid: user.parse().ok(), gids, named })
    }

    /// Whether it may read and write a node of this mode, user and group; none: that is in its image.
    pub fn may_open(&self, (mode, uid, gid): (u32, u32, u32)) -> Option<bool> {
        if mode & 0o006 == 0o006 || self.uid == Some(uid) && mode & 0o600 == 0o600 {
            return Some(true);
        }
        let group = mode & 0o060 == 0o060;
        match group && self.gids.contains(&gid) {
            true => Some(true),
            false if self.uid.is_none() || group && self.named => None,
            false => Some(false),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    Docker,
    Podman,
    Deployment,
}

impl Run {
    pub fn owner(&self) -> Owner {
        match self.kind {
            RunKind::Docker => Owner::Container("docker".into(), self.name.clone()),
            RunKind::Podman => Owner::Container("podman".into(), self.name.clone()),
            RunKind::Deployment => Owner::Deployment(self.name.clone()),
        }
    }

    /// Jellyfin's own image sets the capabilities and the devices itself.
    pub fn official(&self) -> bool {
        official(&self.image)
    }
}

/// Jellyfin's own image, by its name.
pub(crate) fn official(image: &str) -> bool {
    let image = image.trim_start_matches("docker.io/").trim_start_matches("ghcr.io/");
    image == "jellyfin/jellyfin" || image.starts_with("jellyfin/jellyfin:") || image.starts_with("jellyfin/jellyfin@")
}

pub(super) fn observe(machine: &dyn Machine) -> Vec<Run> {
    let mut all = Vec::new();
    for (engine, kind) in [(Engine::Docker, RunKind::Docker), (Engine::Podman, RunKind::Podman)] {
        let question = Question::Containers(engine);
        let answer = machine.ask(&question);
        let containers =
            answer.get().and_then(|answer| answer.json()?.as_array()).map(Vec::as_slice).unwrap_or_default();
        all.extend(containers.iter().filter_map(|container| of_container(container, kind, question.key())));
    }
    let question = Question::Kube(KubeList::Deployments);
    let answer = machine.ask(&question);
    let items = answer.get().and_then(|answer| answer.json()?.get("items")?.as_array());
    all.extend(
        items.map(Vec::as_slice).unwrap_or_default().iter().filter_map(|item| of_deployment(item, question.key())),
    );
    // The answer speaks of the whole cluster: only what this machine has is ours.
    for run in all.iter_mut().filter(|run| run.kind == RunKind::Deployment) {
        run.config_dirs.retain(|dir| machine.exists(dir));
    }
    all
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(crate) fn is_jellyfin(image: &str) -> bool {
    // The repository's name, whatever the registry and tag: "lscr.io/linuxserver/jellyfin:10.8".
    let name = image.split('@').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    name.split(':').next().is_some_and(|name| name.contains("jellyfin"))
}

fn of_container(value: &Value, kind: RunKind, asked: &'static str) -> Option<Run> {
    let image = [text(value, "/Config/Image"), text(value, "/ImageName"), text(value, "/Image")]
        .into_iter()
        .find(|image| is_jellyfin(image))?;
    let env = |name: &str| {
        let all = list(value, "/Config/Env").iter().filter_map(Value::as_str);
        all.filter_map(|line| line.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    };
    let mounts = list(value, "/Mounts").iter().filter(|mount| text(mount, "/Destination") == "/config");
    let devices = list(value, "/HostConfig/Devices").iter();
    let gpu = !list(value, "/HostConfig/DeviceRequests").is_empty()
        || text(value, "/HostConfig/Runtime") == "nvidia"
        || devices.map(|device| text(device, "/PathOnHost")).any(|path| path.starts_with("/dev/nvidia"));
    Some(Run {
        kind,
        name: text(value, "/Name").trim_start_matches('/').to_owned(),
        image: image.to_owned(),
        config_dirs: mounts.map(|mount| text(mount, "/Source").to_owned()).filter(|dir| dir.starts_with('/')).collect(),
        capabilities: env("NVIDIA_DRIVER_CAPABILITIES").into(),
        visible: env("NVIDIA_VISIBLE_DEVICES").into(),
        user: User::read(text(value, "/Config/User"), list(value, "/HostConfig/GroupAdd")),
        gpu,
        asked,
    })
}

fn of_deployment(value: &Value, asked: &'static str) -> Option<Run> {
    let pod = value.pointer("/spec/template/spec")?;
    let container = list(pod, "/containers").iter().find(|container| is_jellyfin(text(container, "/image")))?;
    let env = |name: &str| {
        let entry = list(container, "/env").iter().find(|entry| text(entry, "/name") == name)?;
        Some(text(entry, "/value").to_owned())
    };
    let volume = |name: &str| {
        let found = list(pod, "/volumes").iter().find(|volume| text(volume, "/name") == name)?;
        let path = text(found, "/hostPath/path");
        path.starts_with('/').then(|| path.trim_end_matches('/').to_owned())
    };
    let mounts = list(container, "/volumeMounts").iter().filter(|mount| text(mount, "/mountPath") == "/config");
    let dirs = mounts.filter_map(|mount| {
        let base = volume(text(mount, "/name"))?;
        let sub = text(mount, "/subPath").trim_matches('/');
        Some(if sub.is_empty() { base } else { format!("{base}/{sub}") })
    });
    let limits = container.pointer("/resources/limits").and_then(Value::as_object);
    let granted = limits.is_some_and(|limits| limits.keys().any(|key| key.starts_with("nvidia.com/")));
    Some(Run {
        kind: RunKind::Deployment,
        name: format!("{}/{}", text(value, "/metadata/namespace"), text(value, "/metadata/name")),
        image: text(container, "/image").to_owned(),
        config_dirs: dirs.collect(),
        capabilities: env("NVIDIA_DRIVER_CAPABILITIES").into(),
        visible: env("NVIDIA_VISIBLE_DEVICES").into(),
        user: None,
        gpu: granted || env("NVIDIA_VISIBLE_DEVICES").is_some(),
        asked,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn images_are_known_by_their_repository() {
        assert!(is_jellyfin("lscr.io/linuxserver/jellyfin:10.8"));
        assert!(is_jellyfin("jellyfin/jellyfin@sha256:aa"));
        assert!(!is_jellyfin("jellyfin.example.org/nginx"));
        assert!(!is_jellyfin("sha256:abcd"));
    }

    #[test]
    fn a_container_s_mount_and_environment_are_read() {
        let value = json!({"Name": "/media", "Config": {"Image": "jellyfin/jellyfin:10.10",
            "Env": ["A=b", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"]},
            "HostConfig": {"Runtime": "nvidia"},
            "Mounts": [{"Source": "/srv/jf", "Destination": "/config"}, {"Source": "/m", "Destination": "/media"}]});
        let run = of_container(&value, RunKind::Docker, "docker-containers").expect("is Jellyfin");
        assert_eq!(run.name, "media");
        assert_eq!(run.config_dirs, ["/srv/jf"]);
        assert_eq!(run.capabilities, Seen::Is("compute,utility".into()));
        assert!(run.gpu && run.official());
    }

    #[test]
    fn a_deployment_s_host_path_is_read() {
        let value = json!({"metadata": {"name": "jellyfin", "namespace": "media"}, "spec": {"template": {"spec": {
            "containers": [{"image": "jellyfin/jellyfin:10.7.7", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}],
                "volumeMounts": [{"name": "c", "mountPath": "/config", "subPath": "jf"}]}],
            "volumes": [{"name": "c", "hostPath": {"path": "/var/lib/"}}]}}}});
        let run = of_deployment(&value, "kube-deployments").expect("is Jellyfin");
        assert_eq!(run.config_dirs, ["/var/lib/jf"]);
        assert_eq!(run.name, "media/jellyfin");
        assert!(run.gpu);
        assert!(run.capabilities.is_absent());
    }

    #[test]
    fn a_user_opens_what_its_numbers_may() {
        let closed = (0o660, 0, 44);
        let may = |text: &str, more: &[Value], node| User::read(text, more).expect("a user").may_open(node);
        assert_eq!(User::read("", &[]), None);
        assert_eq!(User::read("0:0", &[]), None);
        assert_eq!(may("1000:1000", &[], (0o666, 0, 0)), Some(true));
        assert_eq!(may("1000:1000", &[], closed), Some(false));
        assert_eq!(may("1000:1000", &[json!("44")], closed), Some(true));
        assert_eq!(may("1000:1000", &[json!("video")], closed), None);
        assert_eq!(may("media", &[], closed), None);
        assert_eq!(may("1000", &[], (0o600, 0, 44)), Some(false));
    }
}
