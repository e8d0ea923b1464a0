//! The demo's network: a hub namespace with a bridge, and one namespace per workload with a cable into it.
//!
//! Namespaces have no names and no mounts: they live as long as this process holds them open, so nothing can be left
//! behind. Without root the process first becomes root of a user namespace of its own, which is root enough for this.

use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::place::Place;
use crate::failure::Failure;

/// The hub, where the control API lives.
pub(super) const HUB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// One workload's network.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) place: Place,
    pub(super) ipv4: Ipv4Addr,
    /// Absent where the kernel has no IPv6.
    pub(super) ipv6: Option<Ipv6Addr>,
}

impl Network {
    /// Its addresses, as a Workload document lists them.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        std::iter::once(self.ipv4.into())
            .chain(self.ipv6.map(IpAddr::from))
            .collect()
    }
}

/// Moves this process, while it has one thread, into a fresh network namespace: the hub. The machine's own network stays
/// as it is.
pub(super) fn enter_hub() -> Result<(), Failure> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        return unshare(UnshareFlags::NEWNET).map_err(|error| {
            Failure::problem("cannot make a network namespace")
                .why(format!(
                    "{error}: this root lacks CAP_SYS_ADMIN, as in most containers"
                ))
                .next("run it as an ordinary user, in a privileged container, or without --netns")
        });
    }
    let refused = |error: io::Error| {
        Failure::problem("cannot make a network namespace without root")
            .why(format!("{error}: this kernel does not let ordinary users make user namespaces"))
            .next("run it with sudo, or without --netns, or allow it: `sudo sysctl -w kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0`")
    };
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET).map_err(refused)?;
    let write = |file: &str, text: String| {
        File::options()
            .write(true)
            .open(file)
            .and_then(|mut f| f.write_all(text.as_bytes()))
    };
    write("/proc/self/setgroups", "deny".to_owned())
        .and_then(|()| write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw())))
        .and_then(|()| write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw())))
        .map_err(refused)
}

/// The one unsoundness for which the function is deprecated is `FILES` (descriptors that other threads cannot see), which
/// is never asked for here.
#[allow(deprecated)]
fn unshare(flags: UnshareFlags) -> io::Result<()> {
    rustix::thread::unshare(flags).map_err(io::Error::from)
}

/// The command with which a person enters a namespace; its program and arguments follow.
pub(super) fn enter_command(namespace: &Path) -> String {
    let pid = std::process::id();
    let users = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
    // In a user namespace of our own, its root is who may enter.
    let user = if users(pid) == users(std::os::unix::process::parent_id()) {
        String::new()
    } else {
        format!("--user=/proc/{pid}/ns/user --preserve-credentials ")
    };
    format!("nsenter {user}--net={}", namespace.display())
}

/// The bridge in the hub. Call once, first.
pub(super) fn lay_hub() -> Result<(), Failure> {
    let v4 = format!(
        "link set lo up\nlink add br0 type bridge\nlink set br0 up\naddress add {HUB}/24 dev br0\n"
    );
    ip(&v4, "the hub's bridge")?;
    let _ = ip(
        "address add fd77::1/64 dev br0 nodad\n",
        "the hub's IPv6 address",
    );
    Ok(())
}

/// A namespace with a cable to the bridge and address number `host` (2..=254).
pub(super) fn lay(name: &str, host: u8) -> Result<Network, Failure> {
    let namespace = Arc::new(create().map_err(|error| {
        Failure::problem(format!("cannot make the network namespace of {name}")).why(error)
    })?);
    let place = Place::Namespace(namespace.clone());
    let path = place.path().unwrap_or_default();
    let cable = format!(
        "link add v-{name} type veth peer name eth0 netns {}\nlink set v-{name} master br0 up\n",
        path.display()
    );
    ip(&cable, &format!("the cable of {name}"))?;
    let ipv4 = Ipv4Addr::new(10, 77, 0, host);
    let ipv6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(host));
    let inside = format!(
        "link set lo up\nlink set eth0 up\naddress add {ipv4}/24 dev eth0\nroute add default via {HUB}\n"
    );
    let inside6 = format!("address add {ipv6}/64 dev eth0 nodad\nroute add default via fd77::1\n");
    let has_ipv6 = within(&namespace, {
        let what = format!("the network of {name}");
        move || {
            ip(&inside, &what)?;
            Ok(ip(&inside6, "IPv6").is_ok())
        }
    })?;
    Ok(Network {
        place,
        ipv4,
        ipv6: has_ipv6.then_some(ipv6),
    })
}

/// A fresh network namespace, made by a thread that ends at once.
fn create() -> io::Result<OwnedFd> {
    let thread = std::thread::spawn(|| {
        unshare(UnshareFlags::NEWNET)?;
        File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
    });
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread was lost")))
}

/// Does something in a namespace and waits for it.
fn within<T: Send>(
    namespace: &Arc<OwnedFd>,
    work: impl FnOnce() -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let lost = || Failure::problem("a thread in a network namespace was lost");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|error| Failure::problem("cannot enter a network namespace").why(error))?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err(lost()))
    })
}

/// Runs `ip` commands in the calling thread's namespace.
fn ip(commands: &str, what: &str) -> Result<(), Failure> {
    let cannot = |why: String| Failure::problem(format!("cannot lay {what}")).why(why);
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => cannot("the program `ip` is missing".to_owned()).next(
                "install it: `apt-get install iproute2` (or your system's package of that name)",
            ),
            _ => cannot(format!("`ip` could not be run: {error}")),
        })?;
    if let Some(mut input) = child.stdin.take() {
        // When `ip` ends early, its own words below say why.
        let _ = input.write_all(commands.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| cannot(format!("`ip` was lost: {error}")))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(cannot(format!(
            "`ip` says: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )))
    }
}
