#!/usr/bin/python3
"""lib/breached-passwords.txt (one a line) as a sorted C array. usage: gen_passwords.py IN OUT_DIR"""
import sys

words = sorted({line.strip().lower() for line in open(sys.argv[1], encoding="utf-8")
                if line.strip() and not line.startswith("# ")}, key=lambda w: w.encode())
with open(f"{sys.argv[2]}/breached_passwords.h", "w", encoding="utf-8") as f:
    f.write("/* Generated from lib/breached-passwords.txt. */\n#include <stddef.h>\n\n"
            "extern const char *const breached_passwords[];\nextern const size_t breached_passwords_count;\n")
with open(f"{sys.argv[2]}/breached_passwords.c", "w", encoding="utf-8") as f:
    f.write('#include "breached_passwords.h"\n\nconst char *const breached_passwords[] = {\n')
    for word in words:
        f.write('    "' + word.replace("\\", "\\\\").replace('"', '\\"').replace("?", "\\?") + '",\n')
    f.write(f"}};\nconst size_t breached_passwords_count = {len(words)};\n")
