//! Addresses of names, by the system's own resolver (`getaddrinfo`).
//!
//! [`look_up`] blocks for as long as name servers take; [`kinds`] answers for an address in numbers, at once.

use std::ffi::{CStr, CString};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use crate::address::{Address, INET, INET6};

/// A question, as `getaddrinfo` takes it; 0 is "any".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// A name, or an address in letters.
    pub host: Option<CString>,
    /// A port, in digits or by name.
    pub service: Option<CString>,
    /// The address family.
    pub family: i32,
    /// The socket type.
    pub kind: i32,
    /// The protocol.
    pub protocol: i32,
    /// `AI_...`
    pub flags: i32,
}

/// One of the addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The address family.
    pub family: i32,
    /// The socket type.
    pub kind: i32,
    /// The protocol.
    pub protocol: i32,
    /// The host's proper name, if it was asked for.
    pub name: Option<CString>,
    /// The address.
    pub address: Address,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// What the resolver says (`EAI_...`). See [`explain`].
    Resolver(i32),
    /// A system call failed.
    System(io::Error),
}

/// Asks the resolver. Blocks.
pub fn look_up(query: &Query) -> Result<Vec<Found>, Failure> {
    let text = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
    // SAFETY: all zero is a hint of nothing.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_family = query.family;
    hints.ai_socktype = query.kind;
    hints.ai_protocol = query.protocol;
    hints.ai_flags = query.flags;
    let mut list = ptr::null_mut();
    // SAFETY: texts that end with a zero or NULL, hints, and a place for the list, all of this frame.
    let code =
        unsafe { libc::getaddrinfo(text(&query.host), text(&query.service), &hints, &mut list) };
    if code == libc::EAI_SYSTEM {
        return Err(Failure::System(io::Error::last_os_error()));
    }
    if code != 0 {
        return Err(Failure::Resolver(code));
    }
    let mut found = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: the list that the resolver made, not yet freed, ends with NULL; an address has the layout
        // that its family says.
        unsafe {
            let one = &*next;
            next = one.ai_next;
            found.push(Found {
                family: one.ai_family,
                kind: one.ai_socktype,
                protocol: one.ai_protocol,
                name: (!one.ai_canonname.is_null())
                    .then(|| CStr::from_ptr(one.ai_canonname).to_owned()),
                address: address(one.ai_addr, one.ai_family),
            });
        }
    }
    // SAFETY: the resolver's, freed once.
    unsafe { libc::freeaddrinfo(list) };
    Ok(found)
}

/// # Safety
/// `pointer` is NULL or to an address of that family.
unsafe fn address(pointer: *const libc::sockaddr, family: i32) -> Address {
    if pointer.is_null() {
        return Address::Other;
    }
    // SAFETY: of that layout, says the caller; read bytewise, for nothing is said of alignment.
    unsafe {
        if family == INET {
            let it = pointer.cast::<libc::sockaddr_in>().read_unaligned();
            let host = Ipv4Addr::from(u32::from_be(it.sin_addr.s_addr));
            Address::V4(SocketAddrV4::new(host, u16::from_be(it.sin_port)))
        } else if family == INET6 {
            let it = pointer.cast::<libc::sockaddr_in6>().read_unaligned();
            Address::V6(SocketAddrV6::new(
                Ipv6Addr::from(it.sin6_addr.s6_addr),
                u16::from_be(it.sin6_port),
                it.sin6_flowinfo,
                it.sin6_scope_id,
            ))
        } else {
            Address::Other
        }
    }
}

/// What the resolver's code means.
#[must_use]
pub fn explain(code: i32) -> String {
    // SAFETY: the call answers any number, with a text that is never freed.
    let text = unsafe { libc::gai_strerror(code) };
    if text.is_null() {
        return format!("error {code}");
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// The flags that change nothing in the answer for a host in numbers.
const WITHOUT_EFFECT: i32 = libc::AI_PASSIVE | libc::AI_NUMERICHOST | libc::AI_NUMERICSERV;

/// What sockets an address in numbers is good for, as `(type, protocol)` in the system's order; `None` where only
/// [`look_up`] can tell, which then answers at once.
///
/// That depends on nothing but what is asked for, and on whether a port is named, so the system is asked once for each
/// combination. The query's own host and service are not looked at.
#[must_use]
pub fn kinds(host: IpAddr, has_port: bool, query: &Query) -> Option<Vec<(i32, i32)>> {
    type Known = Vec<((i32, i32, bool), Vec<(i32, i32)>)>;
    static KNOWN: Mutex<Known> = Mutex::new(Vec::new());
    /// More combinations than make sense.
    const MOST: usize = 64;
    let family = if host.is_ipv4() { INET } else { INET6 };
    if query.family != 0 && query.family != family || query.flags & !WITHOUT_EFFECT != 0 {
        return None;
    }
    let key = (query.kind, query.protocol, has_port);
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, kinds)) = known.iter().find(|(known, _)| *known == key) {
        return Some(kinds.clone());
    }
    drop(known);
    let model = Query {
        host: Some(c"127.0.0.1".into()),
        service: has_port.then(|| c"1".into()),
        family: INET,
        flags: libc::AI_NUMERICHOST,
        ..query.clone()
    };
    let kinds: Vec<_> = look_up(&model)
        .ok()?
        .iter()
        .map(|found| (found.kind, found.protocol))
        .collect();
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() < MOST {
        known.push((key, kinds.clone()));
    }
    Some(kinds)
}
