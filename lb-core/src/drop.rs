//! Why a packet was not sent: every such packet has exactly one [`DropReason`], which is a counter, a metric
//! label and a word in a trace.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a packet was not sent.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];

            /// The label in metrics and traces.
            pub const fn label(self) -> &'static str {
                match self { $(DropReason::$name => $label,)* }
            }
        }
    };
}

reasons! {
    /// Shorter than its Ethernet header, or than a header that it announces.
    TruncatedEthernet = "truncated_ethernet",
    /// More 802.1Q tags than two, or a tag without room for it.
    BadVlan = "bad_vlan",
    /// An 802.1Q tag that no interface of this host has.
    UnknownVlan = "unknown_vlan",
    /// A unicast frame for another host's MAC address; or one to many, with a packet of a connection that this host does not have.
    OtherHost = "other_host",
    TruncatedIpv4 = "truncated_ipv4",
    /// The version field is not that of the EtherType.
    BadIpVersion = "bad_ip_version",
    /// IPv4 header length below 20 bytes, or longer than the packet.
    BadIpv4HeaderLength = "bad_ipv4_header_length",
    /// Total length shorter than the header, or longer than the frame.
    BadIpv4TotalLength = "bad_ipv4_total_length",
    BadIpv4Checksum = "bad_ipv4_checksum",
    /// An option runs over the header's end.
    BadIpv4Option = "bad_ipv4_option",
    /// Strict or loose source route: refused, as hosts do by default (RFC 6274 §3.13.2.3).
    Ipv4SourceRoute = "ipv4_source_route",
    /// A source or destination that may not be on the wire (0/8, 127/8, multicast or broadcast source; RFC 1122 §3.2.1.3).
    MartianAddress = "martian_address",
    TruncatedIpv6 = "truncated_ipv6",
    /// Payload length longer than the frame.
    BadIpv6PayloadLength = "bad_ipv6_payload_length",
    /// An extension header runs over the packet's end, repeats beyond the limit, or stands where it may not.
    BadIpv6Extension = "bad_ipv6_extension",
    /// A type-0 routing header (RFC 5095).
    Ipv6RoutingHeader0 = "ipv6_routing_header_0",
    TruncatedTcp = "truncated_tcp",
    /// TCP data offset below 20 bytes or beyond the segment.
    BadTcpOffset = "bad_tcp_offset",
    TruncatedUdp = "truncated_udp",
    /// UDP length below 8 or beyond the datagram.
    BadUdpLength = "bad_udp_length",
    /// Shorter than the common header and that of a chunk.
    TruncatedSctp = "truncated_sctp",
    TruncatedIcmp = "truncated_icmp",
    /// An ICMP error whose checksum is wrong.
    BadIcmpChecksum = "bad_icmp_checksum",
    /// An ICMP error whose embedded packet cannot be read.
    BadIcmpPayload = "bad_icmp_payload",
    /// Offset and length beyond 65,535, or a middle fragment not a multiple of 8 bytes.
    BadFragment = "bad_fragment",
    /// A later fragment whose first one did not come in time, or for which there was no room to wait.
    FragmentWithoutFirst = "fragment_without_first",
    /// The first fragment of an SCTP packet, whose checksum needs the length of the whole, and whose last one did not come in time.
    FragmentWithoutLast = "fragment_without_last",
    FragmentTableFull = "fragment_table_full",
    /// A copy that a rule with TEE wanted was not made: there was no room or no buffer for it, or the packet is not in one piece.
    CopyLost = "copy_lost",
    /// TTL or hop limit reached 0 here.
    TtlExceeded = "ttl_exceeded",
    /// Longer than the next hop's MTU and not to be fragmented: the sender was told.
    TooBig = "too_big",
    NoRoute = "no_route",
    /// A route that says blackhole, prohibit or unreachable.
    RouteForbids = "route_forbids",
    /// Forwarding of packets that no service takes is switched off.
    ForwardingOff = "forwarding_off",
    /// The next hop does not answer ARP or ND.
    NeighbourFailed = "neighbour_failed",
    /// More packets wait for a next hop than there is room.
    NeighbourQueueFull = "neighbour_queue_full",
    /// The virtual service has no real server that takes a new connection: the client was told.
    NoServer = "no_server",
    /// For a service that knows calls by their Call-ID (`--pe sip`), and names none: not UDP, or not SIP.
    NoCallId = "no_call_id",
    /// The director is about to stop and takes no new connection: another one may take the client's next try.
    Draining = "draining",
    /// A masqueraded real server sent it for a connection that is not there, and was told so (sysctl `nat_icmp_send`).
    NoConnection = "no_connection",
    /// No connection is known of it, and its worker is offered more than it can take (sysctl `drop_newcomers`).
    WorkerBehind = "worker_behind",
    /// One of the new connections that sysctl `drop_packet` does not begin.
    Shed = "shed",
    /// The virtual service has as many connections as it may have (`conn_limit`), or its client's source has (`source_conn_limit`).
    ServiceConnLimit = "service_conn_limit",
    SourceConnLimit = "source_conn_limit",
    /// The virtual service has had as many new connections as it may have in this time (`conn_rate`), or its client's source has (`source_conn_rate`).
    ServiceConnRate = "service_conn_rate",
    SourceConnRate = "source_conn_rate",
    /// The connection's real server was removed.
    ServerRemoved = "server_removed",
    /// Of a connection that a rule masquerades, and that leaves by another interface than it did: it ended.
    LeavesElsewhere = "leaves_elsewhere",
    /// FullNAT, or NAT by rules: no address and port was found to be free for a connection.
    NoLocalPort = "no_local_port",
    /// It acknowledges no SYN cookie of ours, or is damaged.
    BadCookie = "bad_cookie",
    /// The client was answered with a SYN cookie, and the real server cannot be behind one: by direct routing, by a tunnel, of the other address
    /// family; or rules say that the connection is not followed.
    NotProxied = "not_proxied",
    /// The flow table has no room for a new connection.
    FlowTableFull = "flow_table_full",
    /// A helper read of a connection to come, and there is no room to expect it.
    ExpectationsFull = "expectations_full",
    /// A message of SIP whose helper must read more of it than it can: it has no sequence number, or media at no address, or at a port below 1024.
    BadSip = "bad_sip",
    /// There is no room for another connection into whose stream something is put.
    EditTableFull = "edit_table_full",
    /// A segment with a part of what is exchanged in the stream: sent again it comes whole. Or with data where the PROXY header is to stand, or with its TCP header in
    /// two fragments.
    EditInPart = "edit_in_part",
    /// A second exchange in a stream while the one before is not acknowledged: the segment will be sent again. Or one of a client's that belongs to no handshake of
    /// which its real server knows, before that has the PROXY header.
    EditUnacknowledged = "edit_unacknowledged",
    /// An ICMP error about a tunnel's packet: an error of ours told the client instead.
    TunnelError = "tunnel_error",
    /// The interface towards a tunnel's real server has no address that the tunnel could come from.
    NoTunnelSource = "no_tunnel_source",
    /// A rule or a chain's policy says DROP.
    Rule = "rule",
    /// A rule says REJECT: the sender was told.
    RuleRejects = "rule_rejects",
    /// A rule says that a program is to be asked (NFQUEUE), and none listens.
    QueueUnread = "queue_unread",
    /// It has no form in the other address family (RFC 7915): a datagram in fragments without a checksum, an authentication header, an ICMP error that the other
    /// family does not know.
    Untranslatable = "untranslatable",
    /// The protocol or its combination is not handled here.
    Unsupported = "unsupported",
    /// The worker that owns the flow takes no more packets now.
    HandOverFull = "hand_over_full",
    /// The twin takes no more packets now.
    TwinFull = "twin_full",
    /// The port's transmit queue is full.
    TxFull = "tx_full",
    /// No packet buffer is free.
    NoBuffer = "no_buffer",
}
