"""CLIP and SigLIP models, loaded frozen from anywhere, and the matrices that adapters change."""

from copra_lab.models.clip import Clip, check_base
from copra_lab.models.hugging_face import save_hugging_face, to_hugging_face
from copra_lab.models.loading import load_clip
from copra_lab.models.sites import KINDS, TOWERS, Site, choose, find_sites, hf_name, site_of

__all__ = [
    "KINDS",
    "TOWERS",
    "Clip",
    "Site",
    "check_base",
    "choose",
    "find_sites",
    "hf_name",
    "load_clip",
    "save_hugging_face",
    "site_of",
    "to_hugging_face",
]
