"""Check digits: what tells a number of a kind from any other number of its length."""

from __future__ import annotations

_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
# The value of a character at an odd place (the first is odd) of a codice fiscale; at an even one it is its number.
_CODICE_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)


def luhn(digits: str) -> bool:
    """Whether the last digit is that of payment cards (ISO/IEC 7812)."""
    total = 0
    for i, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + i % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def iban(value: str) -> bool:
    """Whether an IBAN's two check digits are right (ISO 7064, mod 97-10)."""
    moved = value[4:] + value[:4]
    return int("".join(str(int(char, 36)) for char in moved)) % 97 == 1


def german_tax_id(digits: str) -> bool:
    """Whether 11 digits are a German tax id: exactly one digit repeats among the first ten, and ISO 7064, mod 11,10."""
    counts = [digits[:10].count(digit) for digit in set(digits[:10])]
    if digits[0] == "0" or sorted(counts)[-2:] not in ([1, 2], [1, 3]):
        return False
    product = 10
    for digit in digits[:10]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def french_nir(value: str) -> bool:
    """Whether the last two of 15 characters are the key of a French NIR; Corsica's 2A and 2B count as 19 and 18."""
    number = value[:13].replace("2A", "19").replace("2B", "18")
    return number.isdigit() and 97 - int(number) % 97 == int(value[13:])


def spanish_id(value: str) -> bool:
    """Whether the last letter is that of a Spanish DNI or NIE."""
    number = value[:-1]
    if number[0] in "XYZ":
        number = f"{'XYZ'.index(number[0])}{number[1:]}"
    return _DNI_LETTERS[int(number) % 23] == value[-1]


def codice_fiscale(value: str) -> bool:
    """Whether the last of 16 characters is the check character of an Italian codice fiscale."""
    numbers = [int(char) if char.isdigit() else ord(char) - 65 for char in value[:15]]
    total = sum(number if i % 2 else _CODICE_ODD[number] for i, number in enumerate(numbers))
    return chr(65 + total % 26) == value[15]
