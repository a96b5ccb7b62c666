//! One packet whose road is written down: [`Path::receive_watched`].

use super::{Burst, Io, Path};
use crate::ids::PortId;
use crate::packet::Packet;
use crate::time::Tick;
use crate::trail::Trail;

impl<P: Packet> Path<P> {
    /// As [`receive`](Path::receive) of one packet; what it met is in the trail.
    pub fn receive_watched(&mut self, packet: P, now: Tick, io: &mut impl Io<P>) -> Option<&Trail> {
        self.watch.begin();
        let mut burst: Burst<P> = [packet].into_iter().collect();
        self.receive(&mut burst, now, io);
        self.watch.end()
    }

    /// The same of a packet that the host sent by the twin of `port`.
    pub fn receive_from_twin_watched(
        &mut self,
        port: PortId,
        packet: P,
        now: Tick,
        io: &mut impl Io<P>,
    ) -> Option<&Trail> {
        self.watch.begin();
        let mut burst: Burst<P> = [packet].into_iter().collect();
        self.receive_from_twin(port, &mut burst, now, io);
        self.watch.end()
    }

    /// Makes room for a trail. Allocates: not for the packet path.
    pub fn make_room_for_trails(&mut self) {
        self.watch.make_room();
    }
}
