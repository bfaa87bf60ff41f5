//! `thruway-node manifests`: what the cluster is given, as plain YAML.

use kube::{Access, Placement};

use super::{DONE, Ground, say};

#[derive(clap::Args, Debug)]
#[group(skip)]
pub struct Args {
    /// The namespace of the agent and of all that it needs
    #[arg(long, default_value = "thruway")]
    pub namespace: String,
    /// The image, with its tag; scripts/node-image.sh builds one
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// How the agent comes to the driver's device nodes: runtime (no privilege: a RuntimeClass and NVIDIA's environment) or
    /// privileged, where no such runtime is, or where it gives pods nothing without a grant (thruway-runtime)
    #[arg(long, value_enum, default_value_t)]
    pub access: AccessWish,
    /// The RuntimeClass that injects the driver; an empty one where that runtime is the engines' default
    #[arg(long, value_name = "NAME", default_value = "nvidia")]
    pub runtime_class: String,
    /// Make that RuntimeClass too
    #[arg(long)]
    pub create_runtime_class: bool,
    /// The nodes' directory with the driver: /run/nvidia/driver where the GPU operator runs it in a container
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub driver_root: String,
    /// The kubelet's directory: /var/lib/k0s/kubelet on k0s
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    pub kubelet_dir: String,
    /// No discovery pods: node-feature-discovery or labels by hand mark the nodes with a card
    #[arg(long)]
    pub no_discover: bool,
    /// No ValidatingAdmissionPolicy: for Kubernetes before 1.32, whose tokens do not name their node
    #[arg(long)]
    pub no_policy: bool,
    /// Let the agent see the nodes' processes too, to find GPU use without a grant
    #[arg(long)]
    pub audit: bool,
    /// NVIDIA's device plugin configuration (YAML), put into a ConfigMap
    #[arg(long, value_name = "FILE")]
    pub config: Option<std::path::PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessWish {
    #[default]
    Runtime,
    Privileged,
}

impl Args {
    /// What of the manifests was chosen.
    ///
    /// # Errors
    /// The configuration cannot be read, or is no YAML.
    pub fn placement(&self) -> Result<Placement, String> {
        let defaults = Placement::default();
        let config = match &self.config {
            Some(path) => Some(super::read(path)?),
            None => None,
        };
        if let Some(text) = &config {
            formats::yamlin::parse(text).map_err(|bad| {
                format!("{}: {bad}", self.config.as_deref().unwrap_or(std::path::Path::new("")).display())
            })?;
        }
        Ok(Placement {
            namespace: self.namespace.clone(),
            image: self.image.clone().unwrap_or(defaults.image),
            access: match self.access {
                AccessWish::Runtime => Access::Runtime,
                AccessWish::Privileged => Access::Privileged,
            },
            runtime_class: Some(self.runtime_class.clone()).filter(|class| !class.is_empty()),
            create_runtime_class: self.create_runtime_class,
            driver_root: self.driver_root.clone(),
            kubelet_dir: self.kubelet_dir.trim_end_matches('/').to_owned(),
            discover: !self.no_discover,
            audit: self.audit,
            policy: !self.no_policy,
            config,
            ..Placement::default()
        })
    }
}

pub fn run(args: &Args, ground: &Ground) -> Result<u8, String> {
    let placement = args.placement()?;
    if ground.global.json {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": placement.objects()});
        say(&format!("{list:#}\n"));
    } else {
        say(&placement.yaml());
    }
    Ok(DONE)
}
