//! What is to be pasted where nothing is edited: exact, for this machine's card.

use super::{CAPABILITIES, VARIABLE, lxc};

/// A way to run Jellyfin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Docker,
    Compose,
    Kubernetes,
    Helm,
    Bare,
    Lxc,
}

/// The text for it. `card`: the card's UUID, where one of several is meant; `devices`: the driver's nodes on this host.
pub fn paste(form: Form, card: Option<&str>, devices: &[lxc::Device]) -> String {
    let which = card.unwrap_or("all");
    let asks = match card {
        Some(uuid) => format!("device_ids: [\"{uuid}\"]"),
        None => "count: all".to_owned(),
    };
    let gpus = card.map_or_else(|| "all".to_owned(), |uuid| format!("'\"device={uuid}\"'"));
    match form {
        Form::Docker => format!(
            "docker run -d --name jellyfin --gpus {gpus} -e {VARIABLE}={CAPABILITIES} \\\n  \
             -v jellyfin-config:/config -v jellyfin-cache:/cache -v /srv/media:/media:ro \\\n  \
             -p 8096:8096 jellyfin/jellyfin\n# or by CDI, which outlives a systemd reload: --device nvidia.com/gpu={which} in place of --gpus\n"
        ),
        Form::Compose => format!(
            "services:\n  jellyfin:\n    environment:\n      {VARIABLE}: {CAPABILITIES}\n    deploy:\n      resources:\n        \
             reservations:\n          devices:\n            - driver: nvidia\n              {asks}\n              capabilities: [gpu]\n"
        ),
        Form::Kubernetes => format!(
            "# in the Deployment's pod template; no NVIDIA_VISIBLE_DEVICES: the scheduler grants the card\nspec:\n  runtimeClassName: \
             nvidia\n  containers:\n    - name: jellyfin\n      env:\n        - name: {VARIABLE}\n          value: {CAPABILITIES}\n      \
             resources:\n        limits:\n          nvidia.com/gpu: 1\n"
        ),
        Form::Helm => format!(
            "# values of the chart jellyfin/jellyfin\nruntimeClassName: nvidia\nresources:\n  limits:\n    nvidia.com/gpu: 1\njellyfin:\n  \
             env:\n    - name: {VARIABLE}\n      value: {CAPABILITIES}\n"
        ),
        Form::Bare => "sudo usermod -aG video,render jellyfin\nsudo systemctl edit jellyfin   # and there, where the unit hides \
                       devices:\n[Service]\nPrivateDevices=no\nDeviceAllow=char-nvidia-frontend rw\nDeviceAllow=char-nvidia-uvm rw\n\
                       # then\nsudo systemctl restart jellyfin\n"
            .to_owned(),
        Form::Lxc => {
            let mut text = lxc::lines(devices).join("\n");
            text.push('\n');
            text
        }
    }
}
