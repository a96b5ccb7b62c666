//! QUIC-LB of a service: how connection IDs name real servers, and which real server has which ID.

use std::net::SocketAddr;

use lb_core::ipvs::quic_lb::{Config, Key, MAX_IDS, QuicLb, QuicServerId};
use lb_core::tables::{Server, Service};

use super::Model;
use super::check::name;
use crate::api::types::{
    self as api, ErrorBody, ErrorKind, QuicKey, ServerSpec, ServiceAddress, ServiceSpec, Transport,
};

fn is_for_udp(service: &ServiceAddress) -> bool {
    matches!(
        service,
        ServiceAddress::Endpoint { transport: Transport::Udp, .. } | ServiceAddress::FwMark { .. }
    )
}

/// The configurations that a service shall have. Messages never show a key.
pub(super) fn configs(spec: &ServiceSpec) -> Result<Vec<Config>, ErrorBody> {
    let invalid = |what: String| {
        let message = format!("virtual service {}: quic_lb: {what}", spec.service);
        ErrorBody::new(ErrorKind::InvalidOperation, message)
    };
    if !spec.quic_lb.is_empty() && !is_for_udp(&spec.service) {
        return Err(invalid("is for UDP".to_owned()));
    }
    let mut configs = Vec::new();
    for asked in &spec.quic_lb {
        let &api::QuicLb { config_id, server_id_length, nonce_length, ref key } = asked;
        let wrong = || invalid(format!("config_id {config_id}: key is not 32 hexadecimal digits"));
        let key = key.as_ref().map(|QuicKey(text)| Key::parse(text).ok_or_else(wrong)).transpose()?;
        let config = Config::new(config_id, server_id_length, nonce_length, key);
        configs.push(config.map_err(|error| invalid(error.to_string()))?);
    }
    QuicLb::default().set_configs(configs.clone()).map_err(|error| invalid(error.to_string()))?;
    Ok(configs)
}

/// The server IDs that a real server shall have. `quic` has those of the others; `this` may have some of them already.
pub(super) fn ids(
    address: &ServiceAddress,
    spec: &ServerSpec,
    service: &Service,
    quic: &QuicLb,
    this: Option<&Server>,
) -> Result<Vec<QuicServerId>, ErrorBody> {
    let invalid = |what: String| {
        let message = format!("{}: {what}", name(address, spec.server));
        ErrorBody::new(ErrorKind::InvalidOperation, message)
    };
    let texts = &spec.quic_server_ids;
    if !texts.is_empty() && !is_for_udp(address) {
        return Err(invalid("quic_server_ids are for services of UDP".to_owned()));
    }
    if texts.len() > MAX_IDS {
        return Err(invalid(format!("{} quic_server_ids are more than {MAX_IDS}", texts.len())));
    }
    let mut ids = Vec::new();
    for text in texts {
        let id = QuicServerId::parse(text).ok_or_else(|| {
            invalid(format!("quic_server_id {text:?} is not 1 to 15 bytes of two hexadecimal digits each"))
        })?;
        if ids.contains(&id) {
            return Err(invalid(format!("quic_server_id {id} stands twice")));
        }
        if let Some(other) = quic.server(&id).filter(|&other| this.is_none_or(|this| this.id != other)) {
            let other = service.servers.iter().find(|server| server.id == other);
            let whose = other.map_or("another real server's".to_owned(), |other| {
                format!("real server {}'s", SocketAddr::new(other.address, other.port))
            });
            return Err(invalid(format!("quic_server_id {id} is {whose}")));
        }
        ids.push(id);
    }
    Ok(ids)
}

/// What a command would have to say to have these configurations.
pub(crate) fn configs_spec(configs: &[Config]) -> Vec<api::QuicLb> {
    let spec = |config: &Config| api::QuicLb {
        config_id: config.id().into(),
        server_id_length: config.id_len().into(),
        nonce_length: config.nonce_len().into(),
        key: config.key().map(|key| QuicKey(key.reveal())),
    };
    configs.iter().map(spec).collect()
}

/// The configurations of a service.
pub(crate) fn configs_of(service: &Service) -> &[Config] {
    service.quic_lb.as_ref().map_or(&[], |quic| quic.configs())
}

impl Model {
    /// Exchanges the configurations of a service, each of which has an ID of its own.
    pub(super) fn set_quic_configs(&mut self, address: &ServiceAddress, configs: Vec<Config>) {
        self.change_quic(address, |quic| {
            let done = quic.set_configs(configs);
            debug_assert_eq!(done, Ok(()));
        });
    }

    /// Changes what a service says of QUIC, and nothing else of it.
    pub(super) fn change_quic(&mut self, address: &ServiceAddress, edit: impl FnOnce(&mut QuicLb)) {
        if let Some(entry) = self.services.get_mut(&super::place(&super::key(address))) {
            let mut service = Service::clone(&entry.service);
            let mut quic = service.quic_lb.as_deref().cloned().unwrap_or_default();
            edit(&mut quic);
            service.quic_lb = (!quic.is_empty()).then(|| quic.into());
            entry.service = service.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::Command;
    use crate::model::Limits;

    const DNS: &str = "udp/192.0.2.1:443";
    const KEY: &str = "8f95f09245765f80256934e50c66207f";

    fn address(text: &str) -> ServiceAddress {
        text.parse().expect(text)
    }

    fn with_configs(service: &str, configs: &[(u32, u32, u32, Option<&str>)]) -> ServiceSpec {
        let config = |&(config_id, server_id_length, nonce_length, key): &(u32, u32, u32, Option<&str>)| {
            let key = key.map(|key| QuicKey(key.to_owned()));
            api::QuicLb { config_id, server_id_length, nonce_length, key }
        };
        let quic_lb = configs.iter().map(config).collect();
        ServiceSpec { quic_lb, ..ServiceSpec::new(address(service), "rr") }
    }

    fn server(n: u8, ids: &[&str]) -> ServerSpec {
        let server = ServerSpec::new(format!("10.0.0.{n}:443").parse().expect("valid"));
        ServerSpec { quic_server_ids: ids.iter().map(|id| id.to_string()).collect(), ..server }
    }

    fn add(n: u8, ids: &[&str]) -> Command {
        Command::AddServer { service: address(DNS), server: server(n, ids) }
    }

    fn edit(n: u8, ids: &[&str]) -> Command {
        Command::EditServer { service: address(DNS), server: server(n, ids) }
    }

    fn model() -> Model {
        let mut model = Model::new(Limits { services: 8, servers: 8 });
        let service = with_configs(DNS, &[(0, 2, 6, Some(KEY)), (3, 3, 4, None)]);
        model.apply(&Command::AddService(service)).expect("right");
        model.apply_all(&[add(1, &["0a1b"]), add(2, &["0A1C", "0a1b2c"])]).expect("right");
        model
    }

    /// The real servers that have these IDs.
    fn named(model: &Model, ids: &[&str]) -> Vec<Option<String>> {
        let service = model.find(&address(DNS)).expect("there");
        let server = |id: &&str| {
            let id = service.quic_lb.as_ref()?.server(&QuicServerId::parse(id)?)?;
            Some(service.servers.iter().find(|server| server.id == id).expect("there").address.to_string())
        };
        ids.iter().map(server).collect()
    }

    fn refused(model: &mut Model, command: Command) -> String {
        let before = format!("{:?}", model.services().collect::<Vec<_>>());
        let error = model.apply(&command).expect_err("refused");
        assert_eq!(format!("{:?}", model.services().collect::<Vec<_>>()), before, "nothing is half applied");
        error.message
    }

    #[test]
    fn ids_are_those_of_the_servers_that_have_them_now() {
        let mut model = model();
        let ids = ["0a1b", "0a1c", "0a1b2c"];
        let (one, two) = (Some("10.0.0.1".to_owned()), Some("10.0.0.2".to_owned()));
        assert_eq!(named(&model, &ids), [one.clone(), two.clone(), two.clone()]);
        model.apply(&edit(2, &["0a1b2c"])).expect("right");
        assert_eq!(named(&model, &ids), [one.clone(), None, two.clone()]);
        model.apply(&edit(1, &["0a1c"])).expect("what is nobody's");
        model.apply(&edit(1, &["0a1c"])).expect("what it has");
        assert_eq!(named(&model, &ids), [None, one, two.clone()]);
        let gone = "10.0.0.1:443".parse().expect("valid");
        model.apply(&Command::DeleteServer { service: address(DNS), server: gone }).expect("there");
        // It is the same server to the counters.
        model.apply(&add(1, &[])).expect("gone before");
        assert_eq!(named(&model, &ids), [None, None, two]);
    }

    #[test]
    fn servers_keep_their_ids_when_anything_else_changes() {
        let mut model = model();
        let ids = ["0a1b", "0a1c", "0a1b2c"];
        let before = named(&model, &ids);
        let scheduler = ServiceSpec { scheduler: "wlc".to_owned(), ..with_configs(DNS, &[(5, 2, 6, None)]) };
        model.apply(&Command::EditService(scheduler)).expect("right");
        model.apply(&add(3, &[])).expect("right");
        assert_eq!(named(&model, &ids), before);
        model.apply(&Command::EditService(with_configs(DNS, &[]))).expect("right");
        assert_eq!(named(&model, &ids), before);
        assert!(service_of(&model).quic_lb.is_empty());
    }

    fn service_of(model: &Model) -> ServiceSpec {
        crate::model::service_spec(model.find(&address(DNS)).expect("there"))
    }

    #[test]
    fn what_is_said_makes_the_same_again() {
        let model = model();
        let commands: Vec<_> = model.commands().collect();
        let mut other = Model::new(Limits { services: 8, servers: 8 });
        other.apply_all(&commands).expect("right");
        assert_eq!(other.commands().collect::<Vec<_>>(), commands);
        assert_eq!(service_of(&other), with_configs(DNS, &[(0, 2, 6, Some(KEY)), (3, 3, 4, None)]));
        let shown = format!("{commands:?}");
        assert!(!shown.contains("8f95"), "{shown}");
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_can_and_without_keys() {
        let mut model = model();
        for (command, expected) in [
            (add(3, &["0a1b"]), "quic_server_id 0a1b is real server 10.0.0.1:443's"),
            (edit(2, &["0a1B"]), "quic_server_id 0a1b is real server 10.0.0.1:443's"),
            (add(3, &["07", "07"]), "quic_server_id 07 stands twice"),
            (add(3, &["a"]), "quic_server_id \"a\" is not 1 to 15 bytes of two hexadecimal digits each"),
            (add(3, &["01"; 9]), "9 quic_server_ids are more than 8"),
            (
                Command::EditService(with_configs(DNS, &[(1, 1, 4, None), (1, 2, 4, None)])),
                "config_id 1 stands twice",
            ),
            (Command::EditService(with_configs(DNS, &[(7, 1, 4, None)])), "config_id 7 is outside 0..=6"),
            (
                Command::EditService(with_configs(DNS, &[(1, 1, 4, Some("hidden"))])),
                "config_id 1: key is not 32",
            ),
            (Command::AddService(with_configs("tcp/192.0.2.1:443", &[(1, 1, 4, None)])), "is for UDP"),
        ] {
            let message = refused(&mut model, command);
            assert!(message.contains(expected) && !message.contains("\"hidden\""), "{message}");
            assert!(message.contains("192.0.2.1:443"), "the object is named: {message}");
        }
        let both = [add(3, &["0b"]), add(4, &["0b"])];
        let (place, error) = model.apply_all(&both).expect_err("one ID, two servers");
        assert_eq!((place, error.message.ends_with("quic_server_id 0b is another real server's")), (1, true));
        let web = ServiceSpec::new(address("tcp/192.0.2.1:80"), "rr");
        model.apply(&Command::AddService(web.clone())).expect("right");
        let command = Command::AddServer { service: web.service, server: server(1, &["0a"]) };
        assert!(refused(&mut model, command).contains("are for services of UDP"));
    }
}
