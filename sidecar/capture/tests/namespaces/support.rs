//! Network namespaces for tests: made with the `ip` program, entered by threads of the test, removed when dropped.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// No connection within a machine takes this long.
const DEADLINE: Duration = Duration::from_secs(10);
/// Set in the environment of a test that was started again inside a user namespace.
const NESTED: &str = "POSTERN_TEST_IN_USER_NAMESPACE";

/// Runs the test that this is called in, which needs `CAP_NET_ADMIN`: as root here, otherwise the same test once more
/// inside a user namespace of its own.
pub(crate) fn privileged<F: FnOnce()>(body: F) {
    if rustix::process::geteuid().is_root() {
        return body();
    }
    assert!(
        std::env::var_os(NESTED).is_none(),
        "still not root inside a user namespace"
    );
    // "namespaces::module::test::{{closure}}": the harness wants the part in between.
    let test = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    let test = test.split_once("::").unwrap().1;
    let program = std::env::current_exe().unwrap();
    let script =
        "mount -t tmpfs tmpfs /run && mkdir /run/netns && exec \"$0\" --exact \"$1\" --nocapture";
    let output = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--net",
            "--mount",
            "sh",
            "-c",
            script,
        ])
        .arg(program)
        .arg(test)
        .env(NESTED, "1")
        .output()
        .expect("this test needs root, or `unshare` (install util-linux)");
    assert!(
        output.status.success(),
        "this test needs root or unprivileged user namespaces (sysctl user.max_user_namespaces), `ip` (install iproute2) and \
         `nft` (install nftables); inside `unshare --user --net` it failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs a program and returns its output; a failure fails the test.
pub(crate) fn run(program: &str, arguments: &str, input: &str) -> String {
    match try_run(program, arguments, input) {
        Ok(output) => output,
        Err(error) => panic!("`{program} {arguments}` failed: {error}"),
    }
}

/// Runs a program and returns its output, or what it printed on standard error when it failed.
pub(crate) fn try_run(program: &str, arguments: &str, input: &str) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(arguments.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("cannot start `{program}`: {error}; install iproute2 and nftables")
        });
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A network namespace with loopback up.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("postern-{}-{number}", std::process::id());
        run("ip", &format!("netns add {name}"), "");
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    /// Two namespaces joined by a cable, with default routes to each other: `10.9.8.1`/`fd00:9::1` and
    /// `10.9.8.7`/`fd00:9::7`.
    pub(crate) fn pair() -> (Self, Self) {
        let (here, there) = (Self::new(), Self::new());
        here.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {}",
            there.name
        ));
        for (namespace, own, other) in [(&here, 1, 7), (&there, 7, 1)] {
            namespace.ip(&format!("addr add 10.9.8.{own}/24 dev eth0"));
            namespace.ip(&format!("addr add fd00:9::{own}/64 dev eth0 nodad"));
            namespace.ip("link set eth0 up");
            namespace.ip(&format!("route add default via 10.9.8.{other}"));
            namespace.ip(&format!("-6 route add default via fd00:9::{other}"));
        }
        (here, there)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in this namespace.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        run("ip", &format!("-n {} {arguments}", self.name), "")
    }

    /// Runs `nft` in this namespace.
    pub(crate) fn nft(&self, arguments: &str, input: &str) -> Result<String, String> {
        try_run(
            "ip",
            &format!("netns exec {} nft {arguments}", self.name),
            input,
        )
    }

    /// Runs `body` on a thread inside this namespace. Sockets stay in the namespace that they were made in.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.name);
        let inside = || {
            let namespace = std::fs::File::open(path).unwrap();
            rustix::thread::move_into_link_name_space(
                namespace.as_fd(),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .unwrap();
            body()
        };
        std::thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Starts a listener for both families that tells every client where it came out.
    pub(crate) fn listen(&self, port: u16) -> Listener {
        Listener::start(self.run(|| dual_stack(port)), port)
    }

    /// Connects from this namespace and returns what the listener at the other end says.
    pub(crate) fn ask(&self, address: &str) -> String {
        self.ask_with(address, |_| {})
    }

    /// As [`Self::ask`], with a socket that `prepare` has had.
    pub(crate) fn ask_with(&self, address: &str, prepare: impl FnOnce(&Socket) + Send) -> String {
        self.run(|| ask(address, prepare))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = try_run("ip", &format!("netns del {}", self.name), "");
    }
}

/// Binds `port` for both families in the calling thread's namespace.
pub(crate) fn dual_stack(port: u16) -> TcpListener {
    TcpListener::bind(("::", port)).unwrap()
}

/// Connects from the calling thread's namespace and returns what the listener at the other end says.
pub(crate) fn ask(address: &str, prepare: impl FnOnce(&Socket)) -> String {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    );
    let socket = socket.unwrap();
    prepare(&socket);
    if let Err(error) = socket.connect_timeout(&address.into(), DEADLINE) {
        return format!("{error}");
    }
    let mut stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Answers every connection with "PORT for ORIGINAL-DESTINATION" until dropped.
pub(crate) struct Listener {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    pub(crate) fn start(listener: TcpListener, port: u16) -> Self {
        let accepting = listener.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            // An error means that the listener was shut down.
            while let Ok((mut stream, _)) = accepting.accept() {
                let destination = original_destination(&stream);
                let _ = write!(stream, "{port} for {destination}");
            }
        });
        Self {
            listener,
            thread: Some(thread),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where an accepted connection was going; its local address when it was not redirected.
fn original_destination(stream: &TcpStream) -> SocketAddr {
    let local = stream.local_addr().unwrap();
    let socket = SockRef::from(stream);
    let original = match local.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    let address = original
        .ok()
        .and_then(|address| address.as_socket())
        .unwrap_or(local);
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
