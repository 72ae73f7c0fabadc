"""Where models lie."""

from __future__ import annotations

import os

models_dir = ""
output_directory = ""
folder_names_and_paths: dict[str, tuple[list[str], set[str]]] = {}


def add_model_folder_path(
    folder_name: str, full_folder_path: str, is_default: bool = False
) -> None:
    paths, _ = folder_names_and_paths.setdefault(folder_name, ([], set()))
    if full_folder_path not in paths:
        paths.insert(0 if is_default else len(paths), full_folder_path)


def get_folder_paths(folder_name: str) -> list[str]:
    return list(folder_names_and_paths[folder_name][0])


def get_filename_list(folder_name: str) -> list[str]:
    folders, endings = folder_names_and_paths.get(folder_name, ([], set()))
    found = set()
    for folder in folders:
        for place, _, files in os.walk(folder, followlinks=True):
            for file in files:
                if os.path.splitext(file)[1].lower() in endings:
                    found.add(os.path.relpath(os.path.join(place, file), folder))
    return sorted(found)


def get_full_path_or_raise(folder_name: str, filename: str) -> str:
    for folder in get_folder_paths(folder_name):
        if os.path.isfile(path := os.path.join(folder, filename)):
            return path
    raise FileNotFoundError(filename)


def get_output_directory() -> str:
    return output_directory


def get_save_image_path(
    filename_prefix: str, output_dir: str, image_width: int = 0, image_height: int = 0
) -> tuple[str, str, int, str, str]:
    place, name = os.path.split(os.path.normpath(filename_prefix))
    full = os.path.abspath(os.path.join(output_dir, place))
    if os.path.commonpath((output_dir, full)) != output_dir:
        raise Exception("outside of the output folder")
    os.makedirs(full, exist_ok=True)
    taken = [f[len(name) + 1 :].split("_")[0] for f in os.listdir(full) if f.startswith(name + "_")]
    number = 1 + max((int(digits) for digits in taken if digits.isdigit()), default=0)
    return full, name, number, place, filename_prefix
