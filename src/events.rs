//! What OpenNebula tells onemirror of: one hook each, defined in `hooks/`.

/// The events that onemirror hooks into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, strum::Display, strum::EnumIter)]
#[strum(serialize_all = "kebab-case")]
pub enum HookEvent {
    /// A VM is DONE: pass it on to the peer.
    Done,
    /// A VM is POWEROFF, by its user or because its domain died.
    Poweroff,
    /// A VM is UNDEPLOYED.
    Undeployed,
    /// A VM is RUNNING: the second line where no CONTEXT section led to a gate.
    Running,
    /// A host is monitored again: a site may be back.
    HostMonitored,
}
