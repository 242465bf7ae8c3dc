// The parts of the stub that can't be written in C++: entry, thread start, stack switch, leaving.
    .text

    .globl _start
    .hidden _start
    .type _start, @function
_start:
    xor %ebp, %ebp
    mov %rsp, %rdi
    and $-16, %rsp
    call rfork_stub_main
    ud2
    .size _start, . - _start

// rdi clone_args, rsi size, rdx entry, rcx a, r8 b, r9 c. The kernel keeps all registers but rax, rcx
// and r11 in both, so the child finds its arguments in registers and needs nothing from the stack.
    .globl rfork_stub_clone3
    .hidden rfork_stub_clone3
    .type rfork_stub_clone3, @function
rfork_stub_clone3:
    mov %rcx, %r10
    mov $435, %eax
    syscall
    test %rax, %rax
    jz 1f
    ret
1:  xor %ebp, %ebp
    mov %rdx, %rax
    mov %r10, %rdi
    mov %r8, %rsi
    mov %r9, %rdx
    call *%rax
    ud2
    .size rfork_stub_clone3, . - rfork_stub_clone3

// rdi flags, rsi stack end, rdx entry, rcx a, r8 b, r9 c. For kernels' filters that know no clone3.
    .globl rfork_stub_clone
    .hidden rfork_stub_clone
    .type rfork_stub_clone, @function
rfork_stub_clone:
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rdx, %r12
    mov %rcx, %r13
    mov %r8, %r14
    mov %r9, %r15
    xor %edx, %edx
    xor %r10d, %r10d
    xor %r8d, %r8d
    mov $56, %eax
    syscall
    test %rax, %rax
    jz 1f
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    ret
1:  xor %ebp, %ebp
    mov %r13, %rdi
    mov %r14, %rsi
    mov %r15, %rdx
    call *%r12
    ud2
    .size rfork_stub_clone, . - rfork_stub_clone

// rdi stack end, rsi a, rdx b, rcx entry.
    .globl rfork_stub_jump
    .hidden rfork_stub_jump
    .type rfork_stub_jump, @function
rfork_stub_jump:
    mov %rdi, %rsp
    xor %ebp, %ebp
    mov %rsi, %rdi
    mov %rdx, %rsi
    call *%rcx
    ud2
    .size rfork_stub_jump, . - rfork_stub_jump

// rdi rsp, rsi counter, rdx hole start, rcx hole size, r8 exit code.
    .globl rfork_stub_leave
    .hidden rfork_stub_leave
    .type rfork_stub_leave, @function
rfork_stub_leave:
    mov %rdi, %rsp
    mov %rsi, %rdi
    mov %rdx, %r12
    mov %rcx, %r13
    jmp *%r8
    .size rfork_stub_leave, . - rfork_stub_leave

    .globl rfork_stub_use_amx
    .hidden rfork_stub_use_amx
    .type rfork_stub_use_amx, @function
rfork_stub_use_amx:
    lea amx_configuration(%rip), %rax
    .byte 0xc4, 0xe2, 0x78, 0x49, 0x00       // ldtilecfg (%rax)
    .byte 0xc4, 0xe2, 0x7b, 0x49, 0xc0       // tilezero %tmm0
    .byte 0xc4, 0xe2, 0x78, 0x49, 0xc0       // tilerelease
    ret
    .size rfork_stub_use_amx, . - rfork_stub_use_amx

    .balign 64
amx_configuration:
    .byte 1                                  // palette
    .zero 15
    .short 64                                // tile 0: bytes a row
    .zero 30
    .byte 16                                 // tile 0: rows
    .zero 15

    .section .note.GNU-stack, "", @progbits
