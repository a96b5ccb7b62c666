//! What only real programs in network namespaces can show: one file a subject, whose first lines say its goal and its method. All are one
//! program, which is linked once.

mod attack;
mod conntrack;
mod demo;
mod explain;
mod forwarding;
mod full_nat;
mod hostile;
mod idle;
mod life;
mod limits;
mod marks;
mod methods;
mod netfilter;
mod operation;
mod packets;
mod persistence;
mod prefix;
mod protocols;
mod restart;
mod service;
mod sets;
mod sip;
mod source_nat;
mod streams;
mod syn_proxy;
mod sync;
mod sysctls;
mod topology;
mod twin;
mod workers;
