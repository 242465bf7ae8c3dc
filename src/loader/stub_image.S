// The stub's ELF file inside the loader.
    .section .rodata
    .balign 4096
    .globl rfork_stub_image
rfork_stub_image:
    .incbin RFORK_STUB_FILE
    .globl rfork_stub_image_end
rfork_stub_image_end:
    .section .note.GNU-stack, "", @progbits
