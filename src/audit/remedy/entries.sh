if command -v update-grub >/dev/null; then
    update-grub
elif command -v grub2-mkconfig >/dev/null; then
    for file in /boot/grub2/grub.cfg /boot/efi/EFI/*/grub.cfg; do
        if [ "$file" != /boot/grub2/grub.cfg ] && ! grep -Eqs '^[[:space:]]*linux(16|efi)?[[:space:]]' "$file"; then
            continue
        fi
        if grub2-mkconfig --help 2>&1 | grep -q -e --update-bls-cmdline; then
            grub2-mkconfig --update-bls-cmdline -o "$file"
        else
            grub2-mkconfig -o "$file"
        fi
    done
else
    grub-mkconfig -o /boot/grub/grub.cfg
fi
