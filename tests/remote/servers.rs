//! Real servers on this host, each started by the first test that needs it.
//!
//! A server lives in a thread that waits for it, and dies with this process, however that ends. Its
//! files lie beside what cargo builds, and are removed by a later run.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Deref;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{LazyLock, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take until it answers, on a busy host.
const START: Duration = Duration::from_mins(2);

/// A server that answers.
pub(crate) struct Server {
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    /// Where its files are.
    pub(crate) directory: PathBuf,
}

/// A server that is started when it is needed first, and whose failure to do so every test is told.
pub(crate) struct Started {
    server: OnceLock<Result<Server, String>>,
    start: fn() -> Server,
}

impl Started {
    pub(crate) const fn new(start: fn() -> Server) -> Self {
        Self { server: OnceLock::new(), start }
    }
}

impl Deref for Started {
    type Target = Server;

    fn deref(&self) -> &Server {
        let server = self.server.get_or_init(|| {
            catch_unwind(self.start).map_err(|panic| match panic.downcast::<String>() {
                Ok(message) => *message,
                Err(_) => "the server cannot be started".to_owned(),
            })
        });
        server.as_ref().unwrap_or_else(|message| panic!("{message}"))
    }
}

/// Debian's registry, which speaks version 1.0 of the distribution protocol.
pub(crate) static REGISTRY: Started = Started::new(|| registry("registry", ""));

/// The same, for those only who have the password `pass` of `ann`.
pub(crate) static CLOSED_REGISTRY: Started = Started::new(|| {
    let users = directory("closed-registry").join("users");
    // `pass`, as bcrypt hides it at its lowest cost.
    fs::write(&users, "ann:$2y$04$ZkXvv6cMCvk/DvohpBWd2O0jqCsV9oWwZn44ElsviOK07qsNmk1kG\n")
        .unwrap();
    let access = format!("auth: {{htpasswd: {{realm: kiln, path: {}}}}}\n", users.display());
    registry("closed-registry", &access)
});

/// `moto`, which speaks S3, with a bucket `kiln`.
pub(crate) static S3: Started = Started::new(|| {
    let (directory, port) = (directory("s3"), free_port());
    let mut command = ours("python/bin/moto_server");
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    let server = start(&command, directory, port);
    assert_eq!(ask(&server.address, "PUT", "/kiln", &[]).0, 200, "the bucket is made");
    server
});

/// `OpenStack` Swift, with a container `kiln` of the user `test:tester`, whose key is `testing`.
pub(crate) static SWIFT: Started = Started::new(|| {
    let directory = directory("swift");
    tool("swift-proxy-server");
    let ports: Vec<_> = (0..4).map(|_| free_port()).collect();
    let mut command = Command::new(repository("tests/servers/swift"));
    command.arg(&directory).args(ports.iter().map(u16::to_string));
    let server = start(&command, directory, ports[0]);
    let login = [("X-Auth-User", "test:tester"), ("X-Auth-Key", "testing")];
    let (status, answer) = ask(&server.address, "GET", "/auth/v1.0", &login);
    assert_eq!(status, 200, "{answer}");
    let token = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("x-auth-token").then(|| value.trim().to_owned())
    });
    let token = token.expect("a login gives a token");
    let made = ask(&server.address, "PUT", "/v1/AUTH_test/kiln", &[("X-Auth-Token", &token)]);
    assert_eq!(made.0, 201, "the container is made");
    server
});

/// `wsgidav`, which speaks `WebDAV`, without any access control.
pub(crate) static WEBDAV: Started = Started::new(|| {
    let (directory, port) = (directory("webdav"), free_port());
    let files = directory.join("files");
    fs::create_dir(&files).unwrap();
    let mut command = ours("python/bin/wsgidav");
    command.args(["--host=127.0.0.1", "--auth=anonymous", "--no-config"]);
    command.arg(format!("--port={port}")).arg(format!("--root={}", files.display()));
    start(&command, directory, port)
});

/// Python's own web server over a directory, which knows no ranges.
pub(crate) static WEB: Started = Started::new(|| {
    let (directory, port) = (directory("web"), free_port());
    let files = directory.join("files");
    fs::create_dir(&files).unwrap();
    let mut command = Command::new(tool("python3"));
    command.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"]);
    command.arg(&files).arg(port.to_string());
    start(&command, directory, port)
});

/// The key that every emulator of Azure has.
pub(crate) const AZURE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Azurite, which speaks Azure's blobs, with a container `kiln`.
pub(crate) static AZURE: Started = Started::new(|| {
    let (directory, port) = (directory("azure"), free_port());
    let mut command = ours("node_modules/.bin/azurite-blob");
    command.args(["--blobHost", "127.0.0.1", "--silent", "--skipApiVersionCheck", "--location"]);
    command.arg(&directory).args(["--blobPort", &port.to_string()]);
    let server = start(&command, directory, port);
    let mut container = Command::new(tool("python3"));
    container.arg(repository("tests/servers/container.py"));
    container.args([&server.address, "devstoreaccount1", AZURE_KEY, "kiln"]);
    assert!(container.status().unwrap().success(), "the container is made");
    server
});

/// Ceph's RADOS gateway with a cluster of its own, and a bucket `kiln`.
pub(crate) static CEPH: Started = Started::new(|| {
    let directory = directory("ceph");
    for program in ["ceph-mon", "ceph-osd", "radosgw", "curl", "uuidgen"] {
        tool(program);
    }
    let (port, monitor) = (free_port(), free_port());
    let mut command = Command::new(repository("tests/servers/rgw"));
    command.arg(&directory).args([port.to_string(), monitor.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(File::create(directory.join("log")).unwrap());
    let mut child = command.spawn().expect("the script runs");
    // Dropped only with the process, and then the cluster ends.
    std::mem::forget(child.stdin.take());
    let mut said = child.stdout.take().unwrap();
    thread::spawn(move || child.wait());
    let read = said.read_exact(&mut [0; 6]);
    assert!(read.is_ok(), "the cluster did not start: {}", log_of(&directory));
    let server = Server { address: format!("127.0.0.1:{port}"), directory };
    let mut bucket = ours("python/bin/python");
    bucket.arg(repository("tests/servers/bucket.py"));
    bucket.args([&format!("http://{}", server.address), "kiln", "AK", "SK"]);
    assert!(bucket.status().unwrap().success(), "the bucket is made");
    server
});

fn registry(name: &str, access: &str) -> Server {
    let (directory, port) = (directory(name), free_port());
    let config = directory.join("config.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
         delete: {{enabled: true}}\nhttp: {{addr: 127.0.0.1:{port}}}\n{access}",
        directory.join("data").display()
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(tool("docker-registry"));
    command.arg("serve").arg(config);
    start(&command, directory, port)
}

/// Starts a server, and waits until it accepts connections.
pub(crate) fn start(command: &Command, directory: PathBuf, port: u16) -> Server {
    let log = File::create(directory.join("log")).unwrap();
    // A server is told of the end of the thread that started it: hence a thread that stays.
    let mut bound = Command::new(tool("setpriv"));
    bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    bound.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let (ended, wait) = channel();
    thread::spawn(move || {
        let mut child = bound.spawn().expect("setpriv runs");
        let _ = ended.send(child.wait());
        loop {
            thread::park();
        }
    });
    let program = Path::new(command.get_program());
    let address = format!("127.0.0.1:{port}");
    let begun = Instant::now();
    while TcpStream::connect(&address).is_err() {
        let over = wait.try_recv().is_ok() || begun.elapsed() > START;
        assert!(!over, "`{}` did not start: {}", program.display(), log_of(&directory));
        thread::sleep(Duration::from_millis(50));
    }
    Server { address, directory }
}

pub(crate) fn log_of(directory: &Path) -> String {
    fs::read_to_string(directory.join("log")).unwrap_or_default()
}

/// Sends a request without a body, and gives its status and all that comes back.
pub(crate) fn ask(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n").unwrap();
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n").unwrap();
    }
    stream.write_all(b"Connection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    (status.expect("an answer has a status"), answer)
}

/// A new directory for a server's files.
pub(crate) fn directory(name: &str) -> PathBuf {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let all = servers().join("files");
        fs::create_dir_all(&all).unwrap();
        for old in fs::read_dir(&all).unwrap().flatten() {
            let pid = old.file_name().into_string().unwrap();
            if !Path::new("/proc").join(pid).exists() {
                let _ = fs::remove_dir_all(old.path());
            }
        }
        let own = all.join(std::process::id().to_string());
        fs::create_dir_all(&own).unwrap();
        own
    });
    let directory = ROOT.join(name);
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// Where `tests/servers/prepare` installs.
pub(crate) fn servers() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("servers")
}

/// A program that `tests/servers/prepare` installs.
fn ours(path: &str) -> Command {
    let program = servers().join(path);
    assert!(program.exists(), "`{}` is missing: run `tests/servers/prepare`", program.display());
    Command::new(program)
}

/// A program of the host.
pub(crate) fn tool(program: &str) -> PathBuf {
    let known = kiln::host::tool_of(program);
    match known.map(|tool| (tool.find(), tool.debian)) {
        Some((Some(path), _)) => path,
        Some((None, package)) => panic!(
            "`{program}` is missing: install `{package}`, or run \
            `kiln doctor --fix --tests`"
        ),
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let found =
                std::env::split_paths(&path).map(|at| at.join(program)).find(|at| at.exists());
            found.unwrap_or_else(|| {
                panic!("`{program}` is missing: run `tests/servers/prepare --slow`")
            })
        }
    }
}

pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
