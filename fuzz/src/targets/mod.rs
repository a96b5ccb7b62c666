//! One file a target, one row here.

mod adopt;
mod api;
mod commands;
mod config;
mod conntrack;
mod flow;
mod ipvsadm;
mod packet;
mod path;
mod restore;
mod sync;

/// A part of the load balancer that takes bytes from outside.
#[derive(Debug)]
pub struct Target {
    /// Also that of its file and of its folder in `corpus/`.
    pub name: &'static str,
    /// Panics when something does not hold that must.
    pub run: fn(&[u8]),
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        pub const TARGETS: &[Target] = &[$(Target { name: stringify!($name), run: $name::run }),*];
    };
}

targets! { packet, path, flow, adopt, config, conntrack, ipvsadm, restore, commands, api, sync }
