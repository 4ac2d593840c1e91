"""What each option does here, for people who choose; options that are not in the table do nothing here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

ABOUT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "samples_save": "Save every picture that is asked for with saving.",
        "samples_format": "File format of pictures, saved and answered.",
        "samples_filename_pattern": (
            "Names of saved pictures, with parts such as [seed]; empty for the seed alone or with the prompt."
        ),
        "save_images_add_number": "Begin names of saved pictures with a counter.",
        "save_images_replace_action": "What is done where a file of that name exists already.",
        "grid_save": "Save the grid of pictures that were made together.",
        "grid_format": "File format of grids.",
        "grid_extended_filename": "Put seed and prompt into the names of grids.",
        "grid_only_if_multiple": "Make no grid of a single picture.",
        "grid_prevent_empty_spots": "Shape grids so that no place stays empty.",
        "n_rows": "Rows of a grid: -1 finds a square shape, 0 is the batch size.",
        "grid_text_active_color": "Colour of the words at scripts' grids.",
        "grid_text_inactive_color": "Colour of words there that do not count.",
        "grid_background_color": "Colour of what is empty in a grid.",
        "save_images_before_face_restoration": "Save pictures also as they were before faces were restored.",
        "save_images_before_highres_fix": "Save pictures also as they were before hires fix.",
        "save_images_before_color_correction": (
            "Save img2img's pictures also as they were before colours were corrected."
        ),
        "save_mask": "Save the mask of inpainting.",
        "save_mask_composite": "Save what inpainting made, cut out by its mask.",
        "jpeg_quality": "Quality of JPEG, WebP and AVIF.",
        "webp_lossless": "WebP without loss.",
        "export_for_4chan": "Save a smaller JPEG beside files that are too large.",
        "img_downscale_threshold": "Megabytes above which a file is too large.",
        "target_side_length": "Pixels of a side above which it is, and that the copy has at most.",
        "img_max_size_mp": "Megapixels that a script's grid may have.",
        "save_init_img": "Save the pictures that img2img was given.",
        "save_incomplete_images": "Save pictures that were interrupted.",
        "outdir_txt2img_samples": "Folder of txt2img's pictures.",
        "outdir_img2img_samples": "Folder of img2img's pictures.",
        "outdir_txt2img_grids": "Folder of txt2img's grids.",
        "outdir_img2img_grids": "Folder of img2img's grids.",
        "outdir_init_images": "Folder of the pictures that img2img was given.",
        "save_to_dirs": "Save pictures in folders below, named by a pattern.",
        "grid_save_to_dirs": "Save grids in folders below, named by a pattern.",
        "directories_filename_pattern": "That pattern, with parts such as [date].",
        "directories_max_prompt_words": "Words of the prompt that [prompt_words] stands for.",
        "ESRGAN_tile": (
            "Pixels a side of the tiles that upscaling networks are given; 0 gives them the whole picture."
        ),
        "ESRGAN_tile_overlap": "Pixels that these tiles overlap.",
        "upscaler_for_img2img": "How img2img enlarges a picture that is smaller than what is asked for.",
        "face_restoration": "Restore faces where a request does not say.",
        "face_restoration_model": "The network that restores faces.",
        "code_former_weight": "How close CodeFormer keeps to the face there is: 0 restores most.",
        "face_restoration_unload": "Take that network off the device after each use.",
        "sd_model_checkpoint": "The checkpoint that makes the pictures.",
        "sd_checkpoints_limit": "Checkpoints that stay in memory.",
        "sd_checkpoints_keep_in_cpu": (
            "Keep only the one in use on the device, the others in the CPU's memory."
        ),
        "sd_checkpoint_cache": "Further checkpoints that stay in the CPU's memory.",
        "enable_quantization": (
            "Round noise levels to those the model was trained on; other pictures, sometimes sharper."
        ),
        "emphasis": (
            "How (words:1.2) act: Original keeps the mean, No norm does not, Ignore drops the weights, "
            "None takes brackets for text."
        ),
        "comma_padding_backtrack": (
            "Tokens back to a comma at which a long prompt is split into chunks of 75."
        ),
        "sdxl_clip_l_skip": "Clip skip for SDXL's first text encoder, too.",
        "CLIP_stop_at_last_layers": (
            "Clip skip: which of the text encoder's last layers is read, 1 for the last."
        ),
        "randn_source": (
            "Whose random numbers noise is made of; CPU gives the same pictures on every machine."
        ),
        "tiling": "Pictures that can be put side by side without a seam.",
        "hires_fix_refiner_pass": "In which pass of hires fix the refiner takes over.",
        "sdxl_crop_top": "What SDXL is told was cut off above.",
        "sdxl_crop_left": "What SDXL is told was cut off at the left.",
        "sdxl_refiner_low_aesthetic_score": "Score that the refiner is told for the negative prompt.",
        "sdxl_refiner_high_aesthetic_score": "Score that it is told for the prompt.",
        "sd_vae_checkpoint_cache": "VAEs that stay in the CPU's memory.",
        "sd_vae": (
            "The VAE that turns what was made into a picture; Automatic takes one of the checkpoint's name."
        ),
        "sd_vae_overrides_per_model_preferences": "This choice beats what is set for a checkpoint alone.",
        "sd_vae_encode_method": "How pictures are encoded: by the VAE, or fast and coarse by TAESD.",
        "sd_vae_decode_method": "How pictures are decoded: by the VAE, or fast and coarse by TAESD.",
        "inpainting_mask_weight": "How much checkpoints for inpainting are told of the mask.",
        "initial_noise_multiplier": "Factor of the noise that img2img begins with.",
        "img2img_extra_noise": "Noise that img2img and hires fix add.",
        "img2img_color_correction": "Give img2img's pictures the colours of the one that was sent.",
        "img2img_fix_steps": (
            "Do all steps in img2img, instead of the share that its denoising strength says."
        ),
        "img2img_background_color": "What stands for transparency in pictures that are sent.",
        "return_mask": "Answer with the mask of inpainting, too.",
        "return_mask_composite": "Answer with what the mask cuts out, too.",
        "overlay_inpaint": "Lay what is outside the mask over the result, so that it stays as it was.",
        "s_min_uncond": "Below this noise level, every other step goes without the negative prompt: faster.",
        "s_min_uncond_all": "Every step does.",
        "token_merging_ratio": "Share of a picture's parts that are computed together: faster, coarser.",
        "token_merging_ratio_img2img": "The same for img2img; 0 is as above.",
        "token_merging_ratio_hr": "The same for hires fix; 0 is as above.",
        "pad_cond_uncond": "Fill up the shorter of the two prompts, so that both run at once.",
        "pad_cond_uncond_v0": "The same in the way of versions before 1.6.",
        "fp8_storage": "Keep weights in 8 bits: half the memory, slightly other pictures.",
        "cache_fp16_weight": "With 8 bits, keep the 16 for LoRAs in the CPU's memory.",
        "auto_backcompat": "Read infotexts of old versions with the rules of their time.",
        "use_old_emphasis_implementation": "Brackets as in 2022; prompts end at 75 tokens.",
        "use_old_karras_scheduler_sigmas": "Noise levels of Karras from 0.1 to 10.",
        "no_dpmpp_sde_batch_determinism": "SDE samplers make other pictures in a batch than alone.",
        "use_old_hires_fix_width_height": "In hires fix, width and height are those of the second pass.",
        "hires_fix_use_firstpass_conds": "The second pass is conditioned as the first one is.",
        "use_old_scheduling": "Prompt editing with the numbers of old versions.",
        "use_downcasted_alpha_bar": "Noise levels rounded to 16 bits, as in old versions.",
        "refiner_switch_by_sample_steps": (
            "The refiner takes over by the count of steps, not by the noise level."
        ),
        "interrogate_return_ranks": "Show how sure captions and labels are.",
        "interrogate_clip_num_beams": "Captions that are followed at once: more is slower and better.",
        "interrogate_clip_min_length": "Tokens that a caption has at least.",
        "interrogate_clip_max_length": "Tokens that it has at most.",
        "interrogate_clip_dict_limit": "Lines that are read of each list of words; 0 for all.",
        "interrogate_clip_skip_categories": "Lists of words that are left out.",
        "interrogate_deepbooru_score_threshold": "How sure a label must be.",
        "deepbooru_sort_alpha": "Labels by the alphabet, not by how sure they are.",
        "deepbooru_use_spaces": "Blanks in labels, no underscores.",
        "deepbooru_escape": "A backslash before brackets in labels, so that prompts may hold them.",
        "deepbooru_filter_tags": "Labels that are left out, separated by commas.",
        "extra_networks_default_multiplier": "Weight of networks whose tag says none.",
        "textual_inversion_add_hashes_to_infotext": "Name textual inversions' hashes in infotexts.",
        "sd_hypernetwork": "A hypernetwork that every prompt uses.",
        "return_grid": "Show the grid with the pictures.",
        "enable_pnginfo": "Write into files how they were made.",
        "save_txt": "Save that as a text file beside, too.",
        "add_model_name_to_info": "Name the checkpoint in infotexts.",
        "add_model_hash_to_info": "Name its hash.",
        "add_vae_name_to_info": "Name the VAE.",
        "add_vae_hash_to_info": "Name its hash.",
        "add_version_to_infotext": "Name this program's version.",
        "disable_weights_auto_swap": "Reading an infotext does not change the checkpoint.",
        "infotext_skip_pasting": "Names in infotexts that are not read.",
        "infotext_styles": "Whether styles are found again in an infotext's prompts.",
        "live_previews_enable": "Show pictures on their way.",
        "live_previews_image_format": "Their format.",
        "show_progress_grid": "Show all pictures of a batch, not the first alone.",
        "show_progress_every_n_steps": "Steps between two previews.",
        "show_progress_type": "How previews are made: coarse and fast, or by a decoder.",
        "eta_ddim": "Noise that DDIM adds at each step.",
        "eta_ancestral": "Noise that ancestral samplers add at each step.",
        "s_churn": "Randomness of Euler, Heun and DPM2.",
        "s_tmin": "The noise level above which it acts.",
        "s_tmax": "The noise level below which it acts; 0 for all.",
        "s_noise": "Factor of the noise that samplers add.",
        "sigma_min": "Lowest noise level of schedules; 0 is the model's.",
        "sigma_max": "Highest noise level of schedules; 0 is the model's.",
        "rho": "Bend of the schedules that have one; 0 is their own.",
        "eta_noise_seed_delta": (
            "Added to the seed of the noise that samplers add; 31337 makes pictures of some other programs."
        ),
        "always_discard_next_to_last_sigma": "Leave out the last but one noise level.",
        "sgm_noise_multiplier": "Scale the first noise as Stability AI's own code does.",
        "uni_pc_variant": "Form of the sampler UniPC.",
        "uni_pc_skip_type": "How its steps are spread.",
        "uni_pc_order": "Its order, below the count of steps.",
        "uni_pc_lower_order_final": "A lower order at its last steps.",
        "sd_noise_schedule": "Noise down to pure noise (Zero Terminal SNR), for models that were trained so.",
        "skip_early_cond": (
            "Share of the steps, at the beginning, that go without the negative prompt: faster."
        ),
        "beta_dist_alpha": "Shape of the schedule Beta, at the beginning.",
        "beta_dist_beta": "Shape of the schedule Beta, at the end.",
        "sd_lora": "A LoRA that every prompt uses.",
        "lora_preferred_name": "Whether LoRAs are called by the alias in their file or by its name.",
        "lora_add_hashes_to_infotext": "Name LoRAs' hashes in infotexts.",
        "lora_bundled_ti_to_infotext": "Name textual inversions inside LoRAs, too.",
        "enable_prompt_comments": "What follows # in a prompt's line is no part of it.",
        "hypertile_enable_unet": "Compute attention within tiles: faster for large pictures.",
        "hypertile_enable_unet_secondpass": "The same in hires fix.",
        "hypertile_max_depth_unet": "Levels of the network that it reaches.",
        "hypertile_max_tile_unet": "Largest side of a tile.",
        "hypertile_swap_size_unet": "How many sizes of tiles are drawn from.",
        "hypertile_enable_vae": "Tiles in the VAE, too.",
        "hypertile_max_depth_vae": "Levels of the VAE that it reaches.",
        "hypertile_max_tile_vae": "Largest side of a tile there.",
        "hypertile_swap_size_vae": "How many sizes of tiles are drawn from there.",
    }
)
"""Every option that acts, in AUTOMATIC1111's order, with one sentence."""
