//! Listings of sets, in ipset's forms.

use std::fmt::Write;
use std::sync::Arc;

use lb_core::set::{Element, Key, Set, SetId, Slot};
use lb_core::time::Tick;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::IpSets;
use super::comments::Comments;
use super::definition::Definition;
use super::text::{Refusal, write_element};

/// How sets are listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Plain,
    Save,
    Xml,
    /// One name a line.
    Names,
    /// Names alone, as XML.
    NamesXml,
}

/// A set as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SetView {
    pub name: String,
    /// `hash:ip` …
    #[serde(rename = "type")]
    pub kind: String,
    /// As `ipset create` takes it, behind the type.
    pub options: String,
    pub entries: usize,
    /// How often it is named: by lists and by rules for marks.
    pub references: usize,
    /// Bytes of the workers' store.
    pub memory: usize,
}

/// All that a listing needs, to be written while the sets live on.
#[derive(Clone, Debug)]
pub struct Listing {
    sets: Vec<Listed>,
    names: Vec<Option<String>>,
}

#[derive(Clone, Debug)]
struct Listed {
    name: String,
    references: usize,
    definition: Definition,
    set: Arc<Set>,
    comments: Arc<Comments>,
}

impl IpSets {
    pub fn views(&self) -> Vec<SetView> {
        let view = |&id: &SetId| {
            let content = self.get(id);
            SetView {
                name: self.name(id).unwrap_or_default().to_owned(),
                kind: content.definition.kind.name.to_owned(),
                options: content.definition.header_line().trim_start().to_owned(),
                entries: content.set.store.len(),
                references: self.references(id),
                memory: content.set.store.memory(),
            }
        };
        self.order.iter().map(view).collect()
    }

    /// All sets in the order of their making, lists last; or one.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn listing(&self, name: Option<&str>) -> Result<Listing, Refusal> {
        let which = match name {
            Some(name) => vec![self.find(name)?],
            None => {
                let is_list = |&&id: &&SetId| self.get(id).definition.kind.is_list();
                let others = self.order.iter().filter(|id| !is_list(id));
                others.chain(self.order.iter().filter(is_list)).copied().collect()
            }
        };
        let listed = |id| {
            let content = self.get(id).clone();
            Listed {
                name: self.name(id).unwrap_or_default().to_owned(),
                references: self.references(id),
                definition: content.definition,
                set: content.set,
                comments: content.comments,
            }
        };
        let names = self.named.iter().map(|named| Some(named.as_ref()?.name.clone())).collect();
        Ok(Listing { sets: which.into_iter().map(listed).collect(), names })
    }
}

impl Listing {
    /// The whole text. `terse`: without the elements. `sorted`: by address, port and so on.
    pub fn text(&self, format: Format, terse: bool, sorted: bool, now: Tick) -> String {
        let mut out = String::new();
        let is_xml = matches!(format, Format::Xml | Format::NamesXml);
        if is_xml {
            out += "<ipsets>\n";
        }
        for (index, listed) in self.sets.iter().enumerate() {
            match format {
                Format::Names => {
                    let _ = writeln!(out, "{}", listed.name);
                }
                Format::Plain => {
                    if index > 0 {
                        out.push('\n');
                    }
                    self.plain(&mut out, listed, terse, sorted, now);
                }
                Format::Save => self.save(&mut out, listed, terse, sorted, now),
                Format::NamesXml => {
                    let _ = writeln!(out, "<ipset name=\"{}\"/>", listed.name);
                }
                Format::Xml => self.xml(&mut out, listed, terse, sorted, now),
            }
        }
        if is_xml {
            out += "</ipsets>\n";
        }
        out
    }

    /// What makes the sets again, forceadd too, which ipset's own listing forgets.
    pub fn all(&self, now: Tick) -> String {
        let mut out = String::new();
        for listed in &self.sets {
            let force = if listed.definition.forceadd { " forceadd" } else { "" };
            let header = listed.definition.header_line();
            let _ = writeln!(out, "create {} {}{header}{force}", listed.name, listed.definition.kind.name);
            self.elements(listed, false, now, &mut |element, slot| {
                let _ = write!(out, "add {} ", listed.name);
                self.element(&mut out, listed, &element, slot, now, false);
                out.push('\n');
            });
        }
        out
    }

    fn elements(&self, listed: &Listed, sorted: bool, now: Tick, each: &mut dyn FnMut(Element, Slot)) {
        let (set, store) = (&listed.set, &listed.set.store);
        if set.kind.is_list() {
            for &member in set.members.iter() {
                let element = Element { set: member.0.into(), ..Element::default() };
                let key = element.key(set.kind, set.family);
                if let Some(slot) = store.find(&key).filter(|&slot| !store.is_over(slot, now)) {
                    each(element, slot);
                }
            }
            return;
        }
        let read = |key: &Key, slot| Element::of_key(key, store.value(slot), set.kind, set.family);
        let living = store.iter().filter(|&(_, slot)| !store.is_over(slot, now));
        // A bitmap of networks is kept by hash, and listed as a bitmap.
        if !(sorted || set.kind.is_bitmap() && listed.definition.netmask.is_some()) {
            return living.for_each(|(key, slot)| each(read(&key, slot), slot));
        }
        let mut all: Vec<(Element, Slot)> = living.map(|(key, slot)| (read(&key, slot), slot)).collect();
        all.sort_unstable_by_key(|(e, ..)| {
            let interface = (e.interface.name, e.interface.is_physdev, e.interface.is_wildcard);
            (e.address, e.len, e.protocol, e.port, e.second, e.second_len, e.mark, e.mac, interface)
        });
        all.iter().for_each(|(element, slot)| each(*element, *slot));
    }

    fn count(&self, listed: &Listed, now: Tick) -> usize {
        if !listed.set.store.shape().has_timeout {
            return listed.set.store.len();
        }
        let mut count = 0;
        self.elements(listed, false, now, &mut |_, _| count += 1);
        count
    }

    fn memory(&self, listed: &Listed, now: Tick) -> usize {
        listed.definition.kernel_memory(self.count(listed, now), listed.comments.kernel_memory())
    }

    fn element(
        &self,
        out: &mut String,
        listed: &Listed,
        element: &Element,
        slot: Slot,
        now: Tick,
        xml: bool,
    ) {
        let set = &listed.set;
        if set.kind.is_list() {
            let name = self.names.get(element.set as usize).and_then(Option::as_deref);
            *out += name.unwrap_or_default();
        } else {
            write_element(out, element, set.kind, set.family);
        }
        if xml {
            *out += "</elem>";
        }
        let mut say = |name: &str, value: String| {
            let _ = match (xml, value.is_empty()) {
                (true, true) => write!(out, "<{name}/>"),
                (true, false) => write!(out, "<{name}>{value}</{name}>"),
                (false, true) => write!(out, " {name}"),
                (false, false) => write!(out, " {name} {value}"),
            };
        };
        let shape = set.store.shape();
        let extensions = set.store.extensions(slot);
        if shape.has_timeout {
            let left = |until: Tick| until.since(now).div_ceil(Tick::PER_SECOND).max(1);
            let left = extensions.until.map_or(extensions.held, left);
            say("timeout", left.to_string());
        }
        if slot.is_nomatch {
            say("nomatch", String::new());
        }
        if element.interface.is_wildcard {
            say("wildcard", String::new());
        }
        if shape.has_counters {
            say("packets", extensions.packets.to_string());
            say("bytes", extensions.bytes.to_string());
        }
        if let Some(comment) = listed.comments.get(extensions.comment).filter(|comment| !comment.is_empty()) {
            let escape = |text: &str| {
                text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
            };
            say("comment", if xml { format!("\"{}\"", escape(comment)) } else { format!("\"{comment}\"") });
        }
        if shape.has_skbinfo {
            let skb = extensions.skb;
            if (skb.mark, skb.mask) != (0, 0) {
                let whole = skb.mask == u32::MAX;
                let mask = if whole { String::new() } else { format!("/0x{:x}", skb.mask) };
                say("skbmark", format!("0x{:x}{mask}", skb.mark));
            }
            if skb.priority != 0 {
                say("skbprio", format!("{:x}:{:x}", skb.priority >> 16, skb.priority as u16));
            }
            if skb.queue != 0 {
                say("skbqueue", skb.queue.to_string());
            }
        }
    }

    fn plain(&self, out: &mut String, listed: &Listed, terse: bool, sorted: bool, now: Tick) {
        let Listed { name, references, definition, .. } = listed;
        let _ = write!(
            out,
            "Name: {name}\nType: {}\nRevision: {}\nHeader:{}\nSize in memory: {}\nReferences: {references}\nNumber of entries: {}\n",
            definition.kind.name,
            definition.kind.revision,
            definition.header_line(),
            self.memory(listed, now),
            self.count(listed, now)
        );
        if terse {
            return;
        }
        *out += "Members:\n";
        self.elements(listed, sorted, now, &mut |element, slot| {
            self.element(out, listed, &element, slot, now, false);
            out.push('\n');
        });
    }

    fn save(&self, out: &mut String, listed: &Listed, terse: bool, sorted: bool, now: Tick) {
        let header = listed.definition.header_line();
        let _ = writeln!(out, "create {} {}{header}", listed.name, listed.definition.kind.name);
        if terse {
            return;
        }
        self.elements(listed, sorted, now, &mut |element, slot| {
            let _ = write!(out, "add {} ", listed.name);
            self.element(out, listed, &element, slot, now, false);
            out.push('\n');
        });
    }

    fn xml(&self, out: &mut String, listed: &Listed, terse: bool, sorted: bool, now: Tick) {
        let Listed { name, references, definition, .. } = listed;
        let kind = definition.kind;
        let _ = write!(
            out,
            "<ipset name=\"{name}\">\n<type>{}</type>\n<revision>{}</revision>\n<header>",
            kind.name, kind.revision
        );
        for (name, value) in definition.header() {
            let _ = if value.is_empty() {
                write!(out, "<{name}/>")
            } else {
                write!(out, "<{name}>{value}</{name}>")
            };
        }
        let _ = write!(
            out,
            "\n<memsize>{}</memsize>\n<references>{references}</references>\n<numentries>{}</numentries>\n</header>\n",
            self.memory(listed, now),
            self.count(listed, now)
        );
        if !terse {
            *out += "<members>\n";
            self.elements(listed, sorted, now, &mut |element, slot| {
                *out += "<member><elem>";
                self.element(out, listed, &element, slot, now, true);
                *out += "</member>\n";
            });
            *out += "</members>\n";
        }
        *out += "</ipset>\n";
    }
}
