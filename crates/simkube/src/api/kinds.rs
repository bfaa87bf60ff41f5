//! The kinds that are served.

/// A kind of object, as discovery tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
}

const fn of(group: &'static str, plural: &'static str, kind: &'static str, namespaced: bool) -> Kind {
    Kind { group, version: "v1", plural, kind, namespaced }
}

pub(super) const KINDS: &[Kind] = &[
    of("", "nodes", "Node", false),
    of("", "pods", "Pod", true),
    of("", "namespaces", "Namespace", false),
    of("", "serviceaccounts", "ServiceAccount", true),
    of("", "configmaps", "ConfigMap", true),
    of("apps", "daemonsets", "DaemonSet", true),
    of("apps", "deployments", "Deployment", true),
    of("events.k8s.io", "events", "Event", true),
    of("rbac.authorization.k8s.io", "clusterroles", "ClusterRole", false),
    of("rbac.authorization.k8s.io", "clusterrolebindings", "ClusterRoleBinding", false),
    of("rbac.authorization.k8s.io", "roles", "Role", true),
    of("rbac.authorization.k8s.io", "rolebindings", "RoleBinding", true),
    of("admissionregistration.k8s.io", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", false),
    of("admissionregistration.k8s.io", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", false),
];

impl Kind {
    pub fn named(kind: &str) -> Option<Kind> {
        KINDS.iter().copied().find(|known| known.kind == kind)
    }

    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// Has a status of its own, which a change of the object does not touch.
    pub fn has_status(&self) -> bool {
        matches!(self.kind, "Node" | "Pod" | "DaemonSet" | "Deployment" | "Namespace")
    }

    /// Counts its specification's changes in `metadata.generation`.
    pub fn counts(&self) -> bool {
        self.group == "apps"
    }
}
