//! Seccomp filters, compiled from the OCI profile format and loaded right before execve.
//!
//! libcontainer needs libseccomp for this, which a fresh machine lacks. A profile becomes one classic BPF
//! program: check the architecture, then try the rules in order, then fall back to the default action.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::syscalls::syscall_number;

/// Longest program the kernel takes (BPF_MAXINSNS).
const MAX_INSTRUCTIONS: usize = 4096;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;
/// System calls of the x32 ABI share the architecture but set this bit; no profile means to allow them.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_GREATER_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

/// Programs to load, in order.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    program: Vec<Instruction>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    operand: u32,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

impl Filters {
    /// Compiles an OCI seccomp profile. System calls this machine does not know are left out.
    pub fn compile(profile: &Value) -> Result<Filters, String> {
        let profile: Profile =
            serde_json::from_value(profile.clone()).map_err(|error| format!("seccomp profile: {error}"))?;
        let mut program = prologue();
        for rule in &profile.syscalls {
            let verdict = action(&rule.action, rule.errno_ret)?;
            for number in rule.names.iter().filter_map(|name| syscall_number(name)) {
                compile_rule(number, rule.args.as_deref().unwrap_or_default(), verdict, &mut program)?;
            }
        }
        program.push(statement(RETURN, action(&profile.default_action, profile.default_errno_ret)?));
        if program.len() > MAX_INSTRUCTIONS {
            return Err(format!(
                "seccomp profile: {} instructions, at most {MAX_INSTRUCTIONS}",
                program.len()
            ));
        }
        Ok(Filters { program })
    }

    /// Confines the calling thread for good. Needs CAP_SYS_ADMIN or `no_new_privs`.
    pub fn apply(&self) -> Result<(), String> {
        if self.program.is_empty() {
            return Ok(());
        }
        let program: Vec<libc::sock_filter> = self
            .program
            .iter()
            .map(|one| libc::sock_filter {
                code: one.code,
                jt: one.jump_true,
                jf: one.jump_false,
                k: one.operand,
            })
            .collect();
        let header = libc::sock_fprog {
            len: u16::try_from(program.len()).map_err(|error| error.to_string())?,
            filter: program.as_ptr().cast_mut(),
        };
        // SAFETY: `header` and the instructions it points to live until the call returns, and the kernel
        // only reads and copies them.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&header))
        };
        if result == 0 {
            Ok(())
        } else {
            Err(format!("load seccomp filter: {}", std::io::Error::last_os_error()))
        }
    }
}

fn statement(code: u16, operand: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, operand }
}

fn jump(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}

/// Kills foreign architectures, refuses foreign ABIs, and leaves the call's number in the accumulator.
fn prologue() -> Vec<Instruction> {
    let mut program = vec![
        statement(LOAD, OFFSET_ARCH),
        jump(JUMP_EQUAL, AUDIT_ARCH, 1, 0),
        statement(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        statement(LOAD, OFFSET_NUMBER),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([
        jump(JUMP_GREATER_EQUAL, X32_BIT, 0, 1),
        statement(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ]);
    program
}

fn action(name: &str, errno: Option<u32>) -> Result<u32, String> {
    let errno = errno.unwrap_or(libc::EPERM as u32) & libc::SECCOMP_RET_DATA;
    Ok(match name {
        "SCMP_ACT_ALLOW" => libc::SECCOMP_RET_ALLOW,
        "SCMP_ACT_ERRNO" => libc::SECCOMP_RET_ERRNO | errno,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => libc::SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => libc::SECCOMP_RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => libc::SECCOMP_RET_TRAP,
        "SCMP_ACT_LOG" => libc::SECCOMP_RET_LOG,
        "SCMP_ACT_TRACE" => libc::SECCOMP_RET_TRACE | errno,
        other => return Err(format!("seccomp profile: unknown action {other:?}")),
    })
}

/// One rule: number and all argument conditions must hold, else control falls through to the next rule.
fn compile_rule(
    number: u32,
    arguments: &[Argument],
    verdict: u32,
    program: &mut Vec<Instruction>,
) -> Result<(), String> {
    if arguments.is_empty() {
        program.extend([jump(JUMP_EQUAL, number, 0, 1), statement(RETURN, verdict)]);
        return Ok(());
    }
    let mut checks = Vec::new();
    for argument in arguments {
        checks.push(argument_check(argument)?);
    }
    // Layout: test number; checks; return; reload number. Failing checks jump to the reload.
    let body: usize = checks.iter().map(Vec::len).sum::<usize>() + 1;
    let skip =
        u8::try_from(body + 1).map_err(|_| "seccomp profile: too many conditions in a rule".to_string())?;
    program.push(jump(JUMP_EQUAL, number, 0, skip));
    let mut remaining = body;
    for check in checks {
        let after = check.len();
        for (index, mut instruction) in check.into_iter().enumerate() {
            let to_reload = u8::try_from(remaining - index - 1).map_err(|error| error.to_string())?;
            let to_next = u8::try_from(after - index - 1).map_err(|error| error.to_string())?;
            instruction.jump_true = resolve(instruction.jump_true, to_reload, to_next);
            instruction.jump_false = resolve(instruction.jump_false, to_reload, to_next);
            program.push(instruction);
        }
        remaining -= after;
    }
    program.push(statement(RETURN, verdict));
    program.push(statement(LOAD, OFFSET_NUMBER));
    Ok(())
}

/// Jump placeholders inside an argument check.
const FAIL: u8 = 255;
const PASS: u8 = 254;

fn resolve(target: u8, to_reload: u8, to_next: u8) -> u8 {
    match target {
        FAIL => to_reload,
        PASS => to_next,
        other => other,
    }
}

/// Compares a 64-bit argument in two 32-bit halves (little endian, as both supported machines are).
fn argument_check(argument: &Argument) -> Result<Vec<Instruction>, String> {
    if argument.index > 5 {
        return Err(format!("seccomp profile: no argument {}", argument.index));
    }
    let low_offset = OFFSET_ARGS + argument.index * 8;
    let high_offset = low_offset + 4;
    let (high, low) = ((argument.value >> 32) as u32, argument.value as u32);
    let load_high = statement(LOAD, high_offset);
    let load_low = statement(LOAD, low_offset);
    Ok(match argument.op.as_str() {
        "SCMP_CMP_EQ" => {
            vec![load_high, jump(JUMP_EQUAL, high, 0, FAIL), load_low, jump(JUMP_EQUAL, low, PASS, FAIL)]
        }
        "SCMP_CMP_NE" => {
            vec![load_high, jump(JUMP_EQUAL, high, 0, PASS), load_low, jump(JUMP_EQUAL, low, FAIL, PASS)]
        }
        "SCMP_CMP_MASKED_EQ" => {
            let (mask_high, mask_low) = (high, low);
            let (want_high, want_low) = ((argument.value_two >> 32) as u32, argument.value_two as u32);
            vec![
                load_high,
                statement(AND, mask_high),
                jump(JUMP_EQUAL, want_high & mask_high, 0, FAIL),
                load_low,
                statement(AND, mask_low),
                jump(JUMP_EQUAL, want_low & mask_low, PASS, FAIL),
            ]
        }
        "SCMP_CMP_GT" => ordered(load_high, load_low, high, jump(JUMP_GREATER, low, PASS, FAIL)),
        "SCMP_CMP_GE" => ordered(load_high, load_low, high, jump(JUMP_GREATER_EQUAL, low, PASS, FAIL)),
        "SCMP_CMP_LE" => inverted(load_high, load_low, high, jump(JUMP_GREATER, low, FAIL, PASS)),
        "SCMP_CMP_LT" => inverted(load_high, load_low, high, jump(JUMP_GREATER_EQUAL, low, FAIL, PASS)),
        other => return Err(format!("seccomp profile: unknown comparison {other:?}")),
    })
}

/// Greater than: decided by the high half unless the halves are equal.
fn ordered(load_high: Instruction, load_low: Instruction, high: u32, last: Instruction) -> Vec<Instruction> {
    vec![load_high, jump(JUMP_GREATER, high, PASS, 0), jump(JUMP_EQUAL, high, 0, FAIL), load_low, last]
}

/// Less than: the same with the verdicts swapped.
fn inverted(load_high: Instruction, load_low: Instruction, high: u32, last: Instruction) -> Vec<Instruction> {
    vec![load_high, jump(JUMP_GREATER, high, FAIL, 0), jump(JUMP_EQUAL, high, 0, PASS), load_low, last]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Runs a program on (number, arguments) the way the kernel would.
    fn evaluate(filters: &Filters, number: u32, args: [u64; 6]) -> u32 {
        let mut accumulator = 0u32;
        let mut at = 0usize;
        loop {
            let one = filters.program[at];
            at += 1;
            let mut branch =
                |taken: bool| at += usize::from(if taken { one.jump_true } else { one.jump_false });
            match one.code {
                LOAD => {
                    accumulator = match one.operand {
                        OFFSET_NUMBER => number,
                        OFFSET_ARCH => AUDIT_ARCH,
                        offset => {
                            let value = args[((offset - OFFSET_ARGS) / 8) as usize];
                            if offset % 8 == 0 { value as u32 } else { (value >> 32) as u32 }
                        }
                    }
                }
                AND => accumulator &= one.operand,
                JUMP_EQUAL => branch(accumulator == one.operand),
                JUMP_GREATER => branch(accumulator > one.operand),
                JUMP_GREATER_EQUAL => branch(accumulator >= one.operand),
                RETURN => return one.operand,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn rules_decide_in_order_and_fall_back_to_the_default() {
        let filters = Filters::compile(&json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "syscalls": [
                {"names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 0x2_0000_0008u64, "op": "SCMP_CMP_EQ"}]},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
                {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_LT"},
                          {"index": 1, "value": 2, "op": "SCMP_CMP_NE"}]},
                {"names": ["mmap"], "action": "SCMP_ACT_ALLOW"},
            ]
        }))
        .unwrap();
        let refused = libc::SECCOMP_RET_ERRNO | 1;
        let allowed = libc::SECCOMP_RET_ALLOW;
        let call = |name: &str, a0: u64, a1: u64| {
            evaluate(&filters, syscall_number(name).unwrap(), [a0, a1, 0, 0, 0, 0])
        };
        assert_eq!(call("write", 0, 0), allowed);
        assert_eq!(call("mount", 0, 0), refused);
        assert_eq!(call("clone3", 0, 0), libc::SECCOMP_RET_ERRNO | 38);
        assert_eq!(call("personality", 0x2_0000_0008, 0), allowed);
        assert_eq!(call("personality", 8, 0), refused);
        assert_eq!(call("clone", 17, 0), allowed);
        assert_eq!(call("clone", 0x1000_0000, 0), refused);
        assert_eq!(call("socket", 39, 1), allowed);
        assert_eq!(call("socket", 40, 1), refused);
        assert_eq!(call("socket", 39, 2), refused);
        assert_eq!(call("socket", 1 << 32, 1), refused);
        assert_eq!(call("mmap", 0, 0), allowed);
    }

    #[test]
    fn nonsense_is_refused() {
        for profile in [
            json!({"defaultAction": "SCMP_ACT_WHATEVER"}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "x"}]}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"],
                "action": "SCMP_ACT_KILL", "args": [{"index": 9, "value": 0, "op": "SCMP_CMP_EQ"}]}]}),
        ] {
            assert!(Filters::compile(&profile).is_err(), "{profile}");
        }
    }
}
